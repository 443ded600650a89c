"""FlowChef and ReSample: what steering reaches exactly, the operators, and that restored pictures fit the given one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.core.errors import SettingsError
from pipelines.core.schedule import FlowSchedule
from pipelines.core.types import Choice
from pipelines.edits.base import EditPictures
from pipelines.edits.degradations import DAMAGES, Degradation
from pipelines.edits.flow_chef import FlowChefSettings, Residual, Steered, descend, pull_to
from pipelines.edits.resample import resample
from pipelines.families import family_of
from pipelines.samplers.ddim import Ddim, DdimSettings
from pipelines.workflows.edit.request import Picture
from tests.pipelines.edit_requests import edited, request_of
from tests.pipelines.gaussian import CosineSchedule
from tests.pipelines.test_paired_edits import on_gaussians, picture_latents
from tests.pipelines.tiny_models import tiny_sd, tiny_sd3

HALF = torch.tensor([[[[True, False], [False, False]]]])


def steered(settings, mask=None):
    schedule, clean = FlowSchedule(), picture_latents()
    levels = [schedule.at(1000 * (1 - i / 6)) for i in range(7)]
    noise = torch.randn(2, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sampler = Ddim(DdimSettings()) if settings is None else Steered(pull_to(clean, mask, settings))
    return on_gaussians(sampler, schedule, levels, noise, "flow").latents, clean


def test_a_whole_pull_ends_at_the_source_and_none_is_eulers_method():
    latents, clean = steered(FlowChefSettings(pull=1, whole_until=1))
    torch.testing.assert_close(latents, clean.repeat(2, 1, 1, 1), rtol=0, atol=1e-14)
    plain, unsteered = steered(FlowChefSettings(pull=0))[0], steered(None)[0]
    torch.testing.assert_close(plain, unsteered, rtol=0, atol=1e-14)


def test_outside_a_mask_a_whole_pull_ends_at_the_source_and_inside_it_does_not():
    latents, clean = steered(FlowChefSettings(pull=1, whole_until=0.3), HALF)
    outside = ~HALF.expand_as(latents)
    torch.testing.assert_close(latents[outside], clean.expand_as(latents)[outside], rtol=0, atol=1e-14)
    assert (latents - clean)[~outside].abs().min() > 1e-2


def pixels(size=16):
    return torch.rand(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("damage", ["low resolution", "blur", "missing part"])
def test_linear_damage_is_linear_and_leaves_flat_colors(damage):
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8, :] = 1
    spoil, one, other = Degradation(damage, 4, 2.0, mask), pixels(), pixels().flip(-1)
    torch.testing.assert_close(spoil(2 * one - other), 2 * spoil(one) - spoil(other), rtol=0, atol=1e-14)
    flat = torch.full_like(one, 0.3)
    left = spoil(flat)
    torch.testing.assert_close(left[left > 0], torch.full_like(left[left > 0], 0.3), rtol=0, atol=1e-14)


def test_damage_without_what_it_needs_is_said():
    with pytest.raises(SettingsError, match="Draw over"):
        Degradation("missing part")(pixels())
    with pytest.raises(SettingsError, match="square of 32"):
        Degradation("low resolution", 32)(pixels())


def test_one_descent_reaches_squares_exactly_and_many_a_blur_nearly():
    """Through averages over squares the line search is exact, since A A^T is a multiple of the identity."""
    start = torch.zeros_like(pixels())

    def residual(damage):
        spoil = Degradation(damage, 4, 1.0)
        given = spoil(pixels()) if damage == "blur" else pixels()
        return Residual(spoil, EditPictures(given, None, lambda latents: latents, lambda images: images))

    squares = residual("low resolution")
    assert squares(descend(start, squares, 1)).abs().max() < 1e-9 < squares(start).abs().max()
    blurred = residual("blur")
    rests = [blurred(descend(start, blurred, steps)).norm() for steps in (0, 1, 5, 25)]
    assert rests == sorted(rests, reverse=True) and rests[-1] < rests[0] / 20


def test_a_resampled_level_lies_between_the_estimate_and_the_path():
    schedule, fitted = CosineSchedule(), pixels()
    level, next_level, clean = schedule.at(500.0), schedule.at(300.0), schedule.at(0.0)
    none = torch.zeros_like(fitted)
    path = next_level.alpha * fitted
    torch.testing.assert_close(resample(fitted, path, level, next_level, none), path, rtol=0, atol=1e-14)
    between = resample(fitted, path + 1, level, next_level, none) - path
    assert (between > 0).all() and (between < 1).all()
    torch.testing.assert_close(between, between.mean().expand_as(between), rtol=0, atol=1e-14)
    if clean.sigma == 0:
        assert torch.equal(resample(fitted, path, level, clean, none), fitted)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("key", ["flow_chef_restore", "resample"])
def test_a_restored_picture_fits_what_was_given(key, damage):
    family = family_of((tiny_sd3() if key == "flow_chef_restore" else tiny_sd()).components)
    ramp = np.linspace(60, 190, 32, dtype=np.uint8)  # smooth, so that it can be a blurred picture
    source = Picture(np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1][None]), axis=-1))
    drawn = np.zeros((32, 32), bool)
    drawn[8:20, 8:24] = True
    mask = Picture(drawn) if damage == "missing part" else None
    changes = {"num_inference_steps": 3}
    settings = {"damage": damage, "factor": 4, "descents": 4}
    editing, _, steps = edited(family, request_of(source, Choice(key, settings), mask, **changes))
    free = edited(family, request_of(source, Choice("image_to_image", {"strength": 1.0}), **changes))[2]
    pictures = editing._pictures
    residual = Residual(Degradation(damage, 4, 2.0, pictures.mask), pictures)
    fitted, unfitted = (residual(run[-1].latents).detach().norm() for run in (steps, free))
    assert fitted < 0.9 * unfitted  # a random decoder draws few pictures
    assert steps[-1].evaluations == 6  # that of the network: decoding isn't one

"""Cyclic one-way diffusion: what is kept is the source's path after every overwrite, and rounds are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.core.errors import SettingsError
from pipelines.core.schedule import FlowSchedule
from pipelines.core.types import Choice
from pipelines.edits.cyclic import Cyclic, renoise
from pipelines.families import family_of
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.requests.limits import Limits
from pipelines.workflows.edit.request import Picture
from tests.pipelines.edit_requests import edited, request_of
from tests.pipelines.gaussian import CosineSchedule
from tests.pipelines.tiny_models import tiny_sd, tiny_sd3


@pytest.fixture(scope="module")
def families():
    return {"sd": family_of(tiny_sd().components), "sd3": family_of(tiny_sd3().components)}


def drawn(family, inversion="direct", **settings):
    picture = Picture(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    mask = np.zeros((32, 32), bool)
    mask[8:20, 8:24] = True
    request = request_of(
        picture, Choice("cyclic", settings), Picture(mask), num_inference_steps=10, inversion=inversion, source=""
    )
    return edited(family, request)


@pytest.mark.parametrize("schedule", [CosineSchedule(), FlowSchedule()])
def test_noising_on_has_the_signal_and_the_variance_of_the_higher_level(schedule):
    level, higher = schedule.at(500.0), schedule.at(700.0)
    clean, noise, fresh = torch.randn(3, 1, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    signal = renoise(level.alpha * clean, level, higher, torch.zeros_like(clean))
    torch.testing.assert_close(signal, higher.alpha * clean, rtol=0, atol=1e-15)
    own = renoise(level.sigma * noise, level, higher, torch.zeros_like(clean)) / noise
    new = renoise(torch.zeros_like(clean), level, higher, fresh) / fresh
    torch.testing.assert_close(own**2 + new**2, torch.full_like(own, higher.sigma**2), rtol=0, atol=1e-15)
    assert torch.equal(renoise(clean, level, level, fresh), clean)


@pytest.mark.parametrize("key", ["sd", "sd3"])
def test_after_every_overwrite_what_is_kept_is_the_sources_path_bit_for_bit(families, key, monkeypatch):
    kept, put_back = [], Cyclic.put_back

    def noted(self, edit, seed):
        kept.append(seed)
        return put_back(self, edit, seed)

    monkeypatch.setattr(Cyclic, "put_back", noted)
    editing, trajectory, steps = drawn(families[key], cycles=3)
    assert len(steps) == 7  # of ten steps those below 0.7
    path = [step.latents for step in reversed(trajectory.steps)][1:]
    outside = ~editing.mask[0].expand_as(steps[-1].latents[TARGET])
    # Two steps end at half of the levels, and one more overwrite comes after the third: at 0.4 of them.
    for index in (0, 1, 2):
        assert torch.equal(steps[index].latents[TARGET][outside], path[index][0][outside]), index
        assert not torch.equal(steps[index].latents[TARGET], path[index][0])
    assert not torch.equal(steps[3].latents[TARGET][outside], path[3][0][outside])
    # The beginning, two steps, three rounds of two each, and the last.
    assert len(kept) == 1 + 2 + 3 * 2 + 1
    for round_ in range(3):
        assert torch.equal(kept[3 + 2 * round_], kept[1]) and torch.equal(kept[4 + 2 * round_], kept[2])
    assert torch.equal(steps[-1].latents[SOURCE], editing.image_latents[0])


@pytest.mark.parametrize("inversion", ["direct", "ddim"])
def test_every_round_is_counted_and_none_is_the_way_down_alone(families, inversion):
    none, three = (drawn(families["sd"], inversion, cycles=cycles)[2] for cycles in (0, 3))
    # Guided: two evaluations a step.
    assert none[-1].evaluations == 2 * 7 and three[-1].evaluations == 2 * (7 + 3 * 2)
    assert torch.equal(none[0].latents, three[0].latents) and not torch.equal(none[-1].latents, three[-1].latents)


def test_a_round_that_ends_above_its_beginning_is_refused():
    picture, mask = Picture(np.zeros((32, 32, 3), np.uint8)), np.zeros((32, 32), bool)
    mask[8:20, 8:24] = True
    request = request_of(picture, Choice("cyclic", {"low": 0.8}), Picture(mask))
    with pytest.raises(SettingsError, match=r"from 0\.7 down to 0\.8"):
        request.check(Limits(), None)
    with pytest.raises(SettingsError, match="needs a mask"):
        request.replace(edit=Choice("cyclic"), mask=None).check(Limits(), None)

"""Edits with a reference picture: the reference's row is its own path, and the edit's takes over its statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.core.errors import SettingsError
from pipelines.core.types import Choice
from pipelines.edits.reference import match_statistics
from pipelines.edits.style_aligned import SharedAttention
from pipelines.edits.style_tracking import TrackedStatistics
from pipelines.families import family_of
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.workflows.edit.canvas import fit_pixels
from pipelines.workflows.edit.request import Picture
from tests.pipelines.edit_requests import REFERENCE, edited, request_of
from tests.pipelines.tiny_models import tiny_sd

STYLES = ("style_tracking", "style_aligned")


@pytest.fixture(scope="module")
def family():
    return family_of(tiny_sd().components)


@pytest.fixture(scope="module")
def picture():
    return Picture(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))


def rows(count=4):
    return torch.randn(count, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_matched_values_have_the_references_mean_and_spread():
    values, reference = rows(2)[:1], 3 * rows(2)[1:] + 1
    matched = match_statistics(values, reference, (-2, -1))
    for statistic in (torch.mean, torch.std):
        torch.testing.assert_close(statistic(matched, (-2, -1)), statistic(reference, (-2, -1)), rtol=0, atol=1e-14)
    flat = match_statistics(torch.ones_like(values), reference, (-2, -1))
    torch.testing.assert_close(flat, reference.mean((-2, -1), keepdim=True).expand_as(flat), rtol=0, atol=1e-15)


def test_only_the_edits_rows_take_the_statistics_over_and_not_in_parts():
    statistics, features = TrackedStatistics(0.5, rows=4), rows()
    changed = statistics.change(features)
    assert torch.equal(changed[[0, 2]], features[[0, 2]]) and not torch.equal(changed[1], features[1])
    torch.testing.assert_close(changed[3].mean((-2, -1)), features[2].mean((-2, -1)), rtol=0, atol=1e-14)
    with pytest.raises(SettingsError, match="all 4 rows"):
        statistics.change(features[:2])
    statistics.share_done = 0.5
    assert torch.equal(statistics.change(features), features)


def test_a_factor_on_the_shared_maps_is_a_shift_of_the_scores():
    scores = torch.randn(4, 2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shared = SharedAttention(2.0)
    changed = shared.change(scores.softmax(-1), cross=False)
    shifted = scores.clone()
    shifted[[1, 3], ..., 3:] += np.log(2)
    torch.testing.assert_close(changed, shifted.softmax(-1), rtol=0, atol=1e-15)
    states = rows().flatten(2)
    doubled = shared.change_source("any", states)
    assert torch.equal(doubled[[0, 1], 3:], states[[0, 0]]) and torch.equal(doubled[:, :3], states)
    assert torch.equal(SharedAttention(1.0).change(scores, False), scores)


@pytest.mark.parametrize("key", STYLES)
@pytest.mark.parametrize("inversion", ["direct", "edict"])
def test_the_references_row_is_its_inverted_path(family, picture, key, inversion):
    editing, trajectory, steps = edited(family, request_of(picture, key, inversion=inversion))
    reference = torch.from_numpy(fit_pixels(REFERENCE.pixels, (32, 32), "crop")[0].copy())
    latents = family.encode_images(reference.permute(2, 0, 1)[None].float() / 255)
    assert torch.equal(trajectory.initial[:1], latents) and torch.equal(editing.inverted_latents, latents)
    row = editing.inversion.visible(steps[-1].latents)
    if inversion == "direct":
        assert torch.equal(row[SOURCE], latents[0])
        for step, up in zip(steps[:-1], reversed(trajectory.steps[:-1]), strict=True):
            assert torch.equal(step.latents[SOURCE], up.latents[0])
    assert not torch.equal(row[TARGET], latents[0])


@pytest.mark.parametrize(
    ("key", "none"), [("style_tracking", {"until": 0.0}), ("style_aligned", {"attention": 0.0, "adapt": False})]
)
def test_without_its_effect_a_style_is_image_to_image_and_with_it_nearer_to_the_reference(family, picture, key, none):
    changes = {"sampler": Choice("ddim")}
    plain = edited(family, request_of(picture, Choice("image_to_image", {"strength": 0.5}), **changes))[2][-1].latents
    neutral = edited(family, request_of(picture, Choice(key, {"strength": 0.5, **none}), **changes))[2][-1].latents
    # Float32, in other batches and with attention written out.
    torch.testing.assert_close(neutral[TARGET], plain[0], rtol=0, atol=1e-4 * plain.abs().max().item())
    styled = edited(family, request_of(picture, Choice(key, {"strength": 0.5}), **changes))[2][-1].latents
    assert (styled[TARGET] - plain[0]).abs().max() > 1e-3


@pytest.mark.parametrize("key", STYLES)
def test_outside_a_mask_the_edit_is_the_source_and_not_the_reference(family, picture, key):
    drawn = np.zeros((32, 32), bool)
    drawn[8:20, 8:24] = True
    editing, _, steps = edited(family, request_of(picture, key, Picture(drawn)))
    outside = ~editing.mask[0].expand_as(editing.image_latents[0])
    assert torch.equal(steps[-1].latents[TARGET][outside], editing.image_latents[0][outside])
    assert not torch.equal(steps[-1].latents[TARGET], editing.image_latents[0])

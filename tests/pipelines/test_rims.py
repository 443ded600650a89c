"""Hard masks without a step at their rim: exact outside, unchanged deep inside, and the source's own step between."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.edits.masks import blend
from pipelines.edits.rims import match_rim


def step(pixels, mask):
    """The mean difference of neighbors across the mask's edge, in grey levels."""
    steps = []
    for axis in (0, 1):
        crossing = np.diff(mask.astype(int), axis=axis) != 0
        steps.append(np.abs(np.diff(pixels.astype(float), axis=axis)).mean(axis=-1)[crossing])
    return np.concatenate(steps).mean()


def shaded(height=96, width=128):
    """A background that gets lighter downwards, as those of the shipped pictures."""
    rows = np.linspace(90, 140, height)[:, None, None]
    return np.broadcast_to(rows + np.array([40, 0, 20]), (height, width, 3)).round().astype(np.uint8)


def disk(height=96, width=128, radius=34):
    y, x = np.mgrid[:height, :width]
    return (y - 50) ** 2 + (x - 70) ** 2 < radius**2


@pytest.mark.parametrize("offset", [(12, -7, 9), (-30, 25, 33)])
def test_a_picture_of_another_tone_meets_the_source_without_a_step(offset):
    source, mask = shaded(), disk()
    drawn = np.clip(source.astype(int) + offset, 0, 255).astype(np.uint8)
    matched = match_rim(drawn, source, mask)
    hard = np.where(mask[..., None], drawn, source)
    assert step(hard, mask) > 9 and step(matched, mask) <= 1.5 * step(source, mask) + 0.1
    assert np.array_equal(matched[~mask], source[~mask])
    deep = disk(radius=34 - 13)  # the reach of a picture of 96 pixels is 8, diagonally 12
    assert np.array_equal(matched[deep], drawn[deep])
    # No new step further inside either: the correction fades evenly.
    assert np.abs(np.diff((matched.astype(int) - drawn)[50, 36:70], axis=0)).max() <= 14


def test_what_is_drawn_in_the_middle_keeps_its_colors_and_edges():
    source, mask = shaded(), disk()
    drawn = np.clip(source.astype(int) + 15, 0, 255).astype(np.uint8)
    drawn[40:60, 60:80] = (250, 10, 10)
    assert np.array_equal(match_rim(drawn, source, mask)[40:60, 60:80], drawn[40:60, 60:80])


def test_an_object_that_reaches_over_the_rim_does_not_bleed_inwards():
    """Along the rim the pictures differ by content: its color is not carried into what was drawn."""
    source, mask = shaded(), disk()
    source[45:55, :] = (255, 255, 0)  # a bar that the mask cuts
    drawn = shaded()
    matched = match_rim(drawn, source, mask)
    changed = np.abs(matched.astype(int) - drawn).max(axis=-1)
    assert changed[45:55, 41:99].max() <= 3  # four pixels inside


def test_equal_pictures_stay_as_they_are_to_the_bit():
    source = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[10:40, 0:30] = True  # to the picture's edge
    assert np.array_equal(match_rim(source, source, mask), source)


@pytest.mark.parametrize("is_full", [True, False])
def test_a_mask_without_a_rim_pastes_or_leaves_all(is_full):
    source, drawn, mask = shaded(), 255 - shaded(), np.full((96, 128), is_full)
    assert np.array_equal(match_rim(drawn, source, mask), drawn if is_full else source)


def test_a_soft_mask_is_mixed_and_a_hard_one_matched():
    source, mask = shaded(), disk()
    drawn = np.clip(source.astype(int) + 20, 0, 255).astype(np.uint8)
    assert np.array_equal(blend(drawn, source, mask.astype(np.float32)), match_rim(drawn, source, mask))
    half = np.where(mask, np.float32(0.5), np.float32(0))
    assert np.array_equal(blend(drawn, source, half)[mask], source[mask] + 10)

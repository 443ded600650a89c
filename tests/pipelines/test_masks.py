"""Masks of pixels: exact outside and inside, the crop in the picture and in proportion."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipelines.core.types import Choice, Request
from pipelines.edits.masks import blend, blur_mask, find_crop, paste_crop
from pipelines.workflows.edit.canvas import canvas_of
from pipelines.workflows.edit.request import EditRequest, Picture

RNG = np.random.default_rng(0)


def picture(width, height):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def square(width=64, height=48):
    mask = np.zeros((height, width), bool)
    mask[20:32, 24:40] = True
    return mask


def test_no_blur_is_the_mask_itself():
    assert np.array_equal(blur_mask(square(), 0), square())


@pytest.mark.parametrize("blur", [1, 4, 12.5])
def test_a_blurred_mask_is_scipys_gaussian(blur):
    mask = square()
    mask[:3, :50] = True  # at the picture's edge, too
    expected = gaussian_filter(mask.astype(np.float64), blur, mode="nearest", truncate=2.5)
    assert np.allclose(blur_mask(mask, blur), expected, atol=0.5 / 255 + 1e-7)  # multiples of 1 / 255


def test_a_blend_is_exact_where_the_weights_are_zero_or_one():
    new, source, weights = picture(64, 48), picture(64, 48), blur_mask(square(), 2)
    mixed = blend(new, source, weights)
    assert np.array_equal(mixed[weights == 0], source[weights == 0])
    assert np.array_equal(mixed[weights == 1], new[weights == 1])
    assert (weights == 1).any()


@pytest.mark.parametrize(
    ("padding", "size", "box"),
    [
        (0, (64, 64), (24, 18, 40, 34)),  # 16 by 12, made square
        (4, (64, 32), (12, 16, 52, 36)),  # 24 by 20, made twice as wide as high
        (100, (64, 64), (0, 0, 64, 48)),  # no more than there is
    ],
)
def test_the_crop_holds_the_mask_and_has_the_proportions_of_what_is_drawn(padding, size, box):
    assert find_crop(square(), padding, size) == box


def test_a_crop_at_the_edge_is_moved_into_the_picture():
    mask = np.zeros((40, 100), bool)
    mask[:10, 95:] = True
    assert find_crop(mask, 0, (64, 64)) == (90, 0, 100, 10)


@pytest.mark.parametrize("blur", [0, 2])
def test_only_masked_is_put_back_into_the_photograph_bit_for_bit_outside(blur):
    photograph, mask = picture(200, 150), np.zeros((150, 200), bool)
    mask[60:80, 100:130] = True
    edit = Choice("inpaint", {"area": "only masked", "padding": 8, "mask_blur": blur})
    request = EditRequest(Request(prompt="a fox"), Picture(photograph), Picture(mask), edit=edit)
    canvas = canvas_of(request, (64, 64))
    assert canvas.size == (64, 64) and canvas.whole is not None
    left, top, right, bottom = canvas.whole.box
    assert right - left == bottom - top and left <= 100 - 8 and right >= 130 + 8
    finished = canvas.paste(picture(64, 64))
    outside = canvas.whole.weights == 0
    assert finished.shape == photograph.shape and np.array_equal(finished[outside], photograph[outside])
    assert (finished[mask] != photograph[mask]).mean() > 0.9
    # The mask grows by what the blur reaches and no further: 2.5 deviations.
    assert outside[:55].all() and outside.sum() >= 150 * 200 - (20 + 2 * 5) * (30 + 2 * 5)


@pytest.mark.parametrize("blur", [0, 1])
def test_a_part_that_was_not_changed_comes_back_as_it_was(blur):
    """Drawn at its own size the crop is the photograph's pixels, so pasting them changes nothing."""
    photograph, mask = picture(60, 60), np.zeros((60, 60), bool)
    mask[10:20, 10:20] = True
    assert np.array_equal(
        paste_crop(photograph[5:25, 5:25], photograph, blur_mask(mask, blur), (5, 5, 25, 25)), photograph
    )

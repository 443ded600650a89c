"""The invisible watermark: seen by the test for it, by nobody else, and by chance never."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from studio.media.watermark import add_watermark, find_watermark

SURE = 1e-6


def draw_picture(side, seed=0, smooth=8):
    """A cloudy picture, like a decoder's."""
    draw = np.random.default_rng(seed)
    small = draw.normal(128, 50, (side // smooth, side // smooth, 3)).clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def compress(picture, quality):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream).convert("RGB"))


@pytest.mark.parametrize("side", [64, 128, 512])
@pytest.mark.parametrize("kind", ["cloudy", "white", "black"])
def test_a_marked_picture_is_known_and_looks_the_same(side, kind):
    picture = {
        "cloudy": draw_picture(side),
        "white": np.full((side, side, 3), 255, np.uint8),
        "black": np.zeros((side, side, 3), np.uint8),
    }[kind]
    marked = add_watermark(picture)
    error = marked.astype(float) - picture
    assert find_watermark(marked) < SURE
    # Quantization by a step of 24 moves a coefficient by 24 / sqrt(12) = 6.9, over 64 pixels 0.87 each; plus rounding.
    assert np.sqrt(np.mean(error**2)) < 1.1
    assert np.abs(error).max() <= 4


def test_pictures_without_it_are_not_taken_for_marked():
    likelihoods = [find_watermark(draw_picture(64, seed)) for seed in range(300)]
    assert min(likelihoods) > SURE
    # A likelihood of at most 5% comes by chance in at most 5% of them: 15 of 300, and 30 is four deviations above.
    assert sum(one <= 0.05 for one in likelihoods) < 30


@pytest.mark.parametrize("quality", [95, 75, 50])
def test_it_outlives_jpeg(quality):
    assert find_watermark(compress(add_watermark(draw_picture(256)), quality)) < SURE


def test_it_outlives_a_change_of_brightness():
    marked = add_watermark(draw_picture(256))
    assert find_watermark((marked.astype(int) + 9).clip(0, 255).astype(np.uint8)) < SURE


def test_marking_twice_changes_almost_nothing_more():
    marked = add_watermark(draw_picture(128))
    assert np.abs(add_watermark(marked).astype(int) - marked).max() <= 1


def test_odd_sizes_and_tiny_ones():
    odd = add_watermark(draw_picture(256)[:203, :77])
    assert odd.shape == (203, 77, 3)
    assert find_watermark(odd) < SURE
    tiny = draw_picture(32)
    assert np.array_equal(add_watermark(tiny), tiny)
    assert find_watermark(tiny) == 1.0

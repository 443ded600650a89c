"""PSNR and SSIM against values that can be worked out by hand, and against the definition written plainly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.core.errors import SettingsError
from pipelines.metrics.pictures import WINDOW, psnr, ssim


def picture(seed: int, height: int = 17, width: int = 14, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, channels))


def plain_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Window by window and pixel by pixel, as section III of the paper says it."""
    weights = np.array(
        [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)]
    )
    weights /= weights.sum()
    indices = []
    for channel in range(x.shape[2]):
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                a, b = (one[top : top + 11, left : left + 11, channel] for one in (x, y))
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
                covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
                indices.append(
                    (2 * mean_a * mean_b + 1e-4)
                    * (2 * covariance + 9e-4)
                    / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
                )
    return float(np.mean(indices))


def test_equal_pictures():
    one = picture(0)
    assert psnr(one, one) == math.inf
    assert ssim(one, one) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("error", "decibels"), [(1.0, 0.0), (0.1, 20.0), (0.01, 40.0)])
def test_psnr_of_a_constant_error(error, decibels):
    assert psnr(np.zeros((12, 12, 3)), np.full((12, 12, 3), error)) == pytest.approx(decibels)


def test_psnr_takes_the_mean_over_all_pixels_and_channels():
    one, other = np.zeros((4, 5, 3)), np.zeros((4, 5, 3))
    other[0, 0, 0] = 1
    assert psnr(one, other) == pytest.approx(10 * math.log10(60))


def test_bytes_have_the_peak_255():
    gray, lighter = np.full((12, 12, 3), 100, np.uint8), np.full((12, 12, 3), 151, np.uint8)
    assert psnr(gray, lighter) == pytest.approx(-20 * math.log10(51 / 255))
    assert psnr(lighter, gray) == psnr(gray, lighter)
    assert ssim(gray, lighter) == pytest.approx(ssim(gray / 255, lighter / 255))


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.6), (0.0, 1.0), (0.5, 0.4)])
def test_ssim_of_two_flat_pictures_is_its_likeness_of_means(a, b):
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert ssim(np.full((11, 11, 1), a), np.full((11, 11, 1), b)) == pytest.approx(expected, abs=1e-12)


def test_ssim_of_a_negative_is_negative():
    one = picture(1)
    assert ssim(one, 1 - one) < -0.5


@pytest.mark.parametrize("blend", [0.0, 0.5, 0.9])
def test_ssim_is_the_papers_definition(blend):
    one, other = picture(2), picture(3)
    other = blend * one + (1 - blend) * other
    assert ssim(one, other) == pytest.approx(plain_ssim(one, other), abs=1e-10)


def test_ssim_averages_its_channels():
    one, other = picture(4), picture(5)
    parts = [ssim(one[..., i : i + 1], other[..., i : i + 1]) for i in range(3)]
    assert ssim(one, other) == pytest.approx(np.mean(parts), abs=1e-12)


def test_pictures_that_cannot_be_compared_say_so():
    with pytest.raises(SettingsError, match="one size"):
        psnr(picture(0), picture(0, width=15))
    with pytest.raises(SettingsError, match=f"{WINDOW} × {WINDOW}"):
        ssim(picture(0, height=10), picture(1, height=10))

"""How far a picture is from another: PSNR and SSIM."""

from __future__ import annotations

import math

import numpy as np

from pipelines.core.errors import SettingsError

__all__ = ["WINDOW", "psnr", "ssim"]

WINDOW = 11
"""Pixels of a side of SSIM's window; a smaller picture has no SSIM."""

_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


def psnr(picture: np.ndarray, reference: np.ndarray) -> float:
    """Compute the peak signal-to-noise ratio in decibels, -10 log10 of the mean squared error over all pixels and
    channels.

    Args:
        picture, reference: (H, W, C), uint8, or floating point in [0, 1]: the peak is 1.

    Returns:
        0 for black against white, infinity for equal pictures.

    Raises:
        SettingsError: the sizes differ.
    """
    first, second = _normalize_pair(picture, reference)
    error = float(np.mean((first - second) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(picture: np.ndarray, reference: np.ndarray) -> float:
    """Compute structural similarity, the mean of the local index over all windows and then over the channels.

    Each window is 11 x 11 pixels with Gaussian weights of standard deviation 1.5 that sum to 1, and lies
    wholly inside the picture; C1 = 0.01^2 and C2 = 0.03^2 for a peak of 1.

    Args:
        picture, reference: (H, W, C), uint8, or floating point in [0, 1]; H and W at least 11.

    Returns:
        -1 to 1; 1 for equal pictures.

    Raises:
        SettingsError: the sizes differ, or a side is shorter than the window.

    Source: Wang, Bovik, Sheikh, Simoncelli, Image quality assessment, IEEE TIP 13(4), 2004, equation 13,
    windows as in section III-C.
    Differs: the paper takes a picture's luminance; here the index of each color channel is averaged.
    """
    x, y = _normalize_pair(picture, reference)
    if min(x.shape[:2]) < WINDOW:
        raise SettingsError(
            f"SSIM looks at windows of {WINDOW} × {WINDOW} pixels; the picture has {x.shape[1]} × {x.shape[0]}."
        )
    mean_x, mean_y = _average_windows(x), _average_windows(y)
    variance_x = _average_windows(x * x) - mean_x**2
    variance_y = _average_windows(y * y) - mean_y**2
    covariance = _average_windows(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return float(np.mean(likeness * structure))


def _average_windows(values: np.ndarray) -> np.ndarray:
    """Gaussian mean of every whole window: (H, W, C) to (H - 10, W - 10, C)."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        length = values.shape[axis] - WINDOW + 1
        values = sum(weight * np.take(values, range(i, i + length), axis) for i, weight in enumerate(weights))
    return values


def _normalize_pair(picture: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if picture.shape != reference.shape or picture.ndim != 3:
        raise SettingsError(
            f"Pictures of the shapes {picture.shape} and {reference.shape} cannot be compared: "
            "both must be (height, width, channels) of one size."
        )
    return _normalize(picture), _normalize(reference)


def _normalize(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float64) / (255 if picture.dtype == np.uint8 else 1)

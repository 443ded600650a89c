"""The edges of a picture as white lines on black, as ControlNets of kind "canny" take them."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["find_edges"]

_LUMA = (0.299, 0.587, 0.114)
_SIGMA = 1.0
"""Of the Gaussian that smooths the picture, in pixels."""


def find_edges(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Find edges: smoothing, gradients, thinning to one pixel, and lines followed from their strong parts.

    Args:
        pixels: (H, W, 3), uint8.
        low, high: differences of brightness, a sharp step from black to white being about 0.7 after the smoothing:
            above `high` a line begins, and it is followed while it stays above `low`.

    Returns:
        (H, W, 3), uint8, 0 or 255.

    Source: Canny, A computational approach to edge detection, IEEE TPAMI 8(6), 1986, section IV.
    Differs: the smoothing is a Gaussian of one pixel and the gradient Sobel's, as OpenCV's with its usual aperture;
        thresholds are differences of brightness and not OpenCV's sums of absolute values.
    """
    gray = torch.from_numpy(pixels.astype(np.float64)) @ torch.tensor(_LUMA, dtype=torch.float64) / 255
    across, down = _compute_gradients(_smooth(gray))
    strength = torch.hypot(across, down)
    thin = torch.where(_is_ridge(strength, across, down), strength, torch.zeros_like(strength))
    lines = _follow_lines(thin > low, thin > high)
    return np.repeat((lines.numpy() * np.uint8(255))[..., None], 3, axis=2)


def _smooth(gray: torch.Tensor) -> torch.Tensor:
    radius = math.ceil(3 * _SIGMA)
    places = torch.arange(-radius, radius + 1, dtype=gray.dtype)
    kernel = torch.exp(-(places**2) / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(gray[None, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])[0, 0]


def _compute_gradients(gray: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sobel's, across and down, as differences over two pixels."""
    sobel = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=gray.dtype) / 4
    padded = F.pad(gray[None, None], (1, 1, 1, 1), mode="replicate")
    across, down = F.conv2d(padded, torch.stack([sobel, sobel.T])[:, None])[0]
    return across, down


def _is_ridge(strength: torch.Tensor, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Whether a pixel is at least as strong as both neighbors along its gradient, and stronger than one of them."""
    padded = F.pad(strength[None, None], (1, 1, 1, 1))[0, 0]
    height, width = strength.shape
    eighth = torch.round(torch.atan2(down, across) / (math.pi / 4)).long() % 4
    ridge = torch.zeros_like(strength, dtype=torch.bool)
    for direction, (row, column) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        behind = padded[1 - row : 1 - row + height, 1 - column : 1 - column + width]
        ridge |= (eighth == direction) & (strength >= ahead) & (strength > behind)
    return ridge


def _follow_lines(weak: torch.Tensor, strong: torch.Tensor) -> torch.Tensor:
    """The weak pixels that hang together with a strong one, over all eight neighbors."""
    lines = strong
    while True:
        grown = (F.max_pool2d(lines[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0) & weak
        if torch.equal(grown, lines):
            return lines
        lines = grown

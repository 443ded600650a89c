"""Masks of pixels: how they fade, which part of a picture they need, and how a picture is put back under them."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pipelines.edits.rims import match_rim

__all__ = ["Box", "blend", "blur_mask", "find_crop", "grow_mask", "paste_crop"]

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, the ends excluded."""

_REACH = 2.5
"""Standard deviations at which the Gaussian is cut off: beyond it the mask is exactly 0, and deep inside exactly 1."""


def blur_mask(mask: np.ndarray, blur: float) -> np.ndarray:
    """Let a mask fade at its edge by a Gaussian.

    Args:
        mask: (H, W) bool.
        blur: standard deviation in pixels; 0 leaves a hard mask.
    Returns: (H, W) float32, multiples of 1 / 255 from 0 to 1.
    """
    if blur <= 0 or not mask.any():
        return mask.astype(np.float32)
    radius = int(_REACH * blur + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / blur) ** 2)
    # Only around the mask: elsewhere a large photograph's weights are 0.
    rows, columns = (_pad(np.flatnonzero(mask.any(axis=1 - axis)), radius, mask.shape[axis]) for axis in (0, 1))
    part = torch.from_numpy(mask[slice(*rows), slice(*columns)].astype(np.float64))[None, None]
    part = F.pad(part, (radius,) * 4, mode="replicate")
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        part = F.conv2d(part, (kernel / kernel.sum()).reshape(shape))
    weights = np.zeros(mask.shape, np.float32)
    weights[slice(*rows), slice(*columns)] = (torch.round(part[0, 0] * 255) / 255).numpy()
    return weights


def grow_mask(mask: np.ndarray) -> np.ndarray:
    """Grow a mask (H, W) bool by a pixel to every side."""
    places = torch.from_numpy(mask.astype(np.float32))[None, None]
    grown: np.ndarray = F.max_pool2d(places, 3, stride=1, padding=1)[0, 0].numpy() > 0
    return grown


def find_crop(mask: np.ndarray, padding: int, size: tuple[int, int]) -> Box:
    """Find the part of a picture that a mask needs, in the proportions of what is drawn as far as the picture allows.

    Args:
        mask: (H, W) bool, true somewhere.
        padding: pixels around the mask, for the model to see what is there.
        size: (width, height) that is drawn.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom = _pad(rows, padding, mask.shape[0])
    left, right = _pad(columns, padding, mask.shape[1])
    ratio = size[0] / size[1]
    left, right = _widen(left, right, math.ceil((bottom - top) * ratio), mask.shape[1])
    top, bottom = _widen(top, bottom, math.ceil((right - left) / ratio), mask.shape[0])
    return left, top, right, bottom


def _pad(places: np.ndarray, padding: int, length: int) -> tuple[int, int]:
    return max(0, int(places[0]) - padding), min(length, int(places[-1]) + 1 + padding)


def _widen(start: int, end: int, wanted: int, length: int) -> tuple[int, int]:
    """Widen a span to at least so many pixels, evenly on both sides and within the picture."""
    more = min(wanted, length) - (end - start)
    if more <= 0:
        return start, end
    start = min(max(0, start - more // 2), length - (end - start) - more)
    return start, start + min(wanted, length)


def blend(picture: np.ndarray, source: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute w * picture + (1 - w) * source, rounded; where w is 0 that is the source, exactly.

    A hard mask, whose weights are 0 and 1, would leave a step: see `match_rim`.

    Args:
        picture, source: (H, W, 3) uint8.
        weights: (H, W), 0 to 1.
    """
    if ((weights == 0) | (weights == 1)).all():
        return match_rim(picture, source, weights == 1)
    shares = weights[..., None].astype(np.float64)
    return np.round(shares * picture + (1 - shares) * source).astype(np.uint8)


def paste_crop(picture: np.ndarray, source: np.ndarray, weights: np.ndarray, box: Box) -> np.ndarray:
    """Put what was drawn of a part back into the whole picture, at its size; outside the mask nothing changes.

    Args:
        picture: (h, w, 3) uint8, the part as it was drawn.
        source: (H, W, 3) uint8.
        weights: (H, W), 0 to 1.
        box: where the part lies.
    """
    left, top, right, bottom = box
    part = np.asarray(Image.fromarray(picture).resize((right - left, bottom - top), Image.Resampling.LANCZOS))
    pasted = source.copy()
    pasted[top:bottom, left:right] = blend(part, source[top:bottom, left:right], weights[top:bottom, left:right])
    return pasted

"""A picture brought to the size of a run."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

__all__ = ["FITS", "fit_picture", "to_tensor"]

FITS = ("crop", "resize")
"""What is done to a picture of other proportions: its middle is cut out, or it is stretched."""


def fit_picture(pixels: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """Bring a picture (H, W, 3), uint8, to a size.

    Args:
        pixels: the picture.
        size: (width, height).
        fit: "crop" or "resize".
    """
    height, width = pixels.shape[:2]
    if fit == "crop":
        scale = min(width / size[0], height / size[1])
        wide, high = min(width, round(size[0] * scale)), min(height, round(size[1] * scale))
        left, top = (width - wide) // 2, (height - high) // 2
        pixels = pixels[top : top + high, left : left + wide]
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Turn (H, W, 3), uint8, into (1, 3, H, W), float32, 0 to 1."""
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]

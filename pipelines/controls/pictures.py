"""A picture brought to the size of a run, and the map that is made of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from PIL import Image

from pipelines.controls.edges import find_edges
from pipelines.core.registry import setting

__all__ = ["FITS", "MAPS", "MapSettings", "fit_picture", "make_map", "to_tensor"]

FITS = ("crop", "resize")
"""What is done to a picture of other proportions: its middle is cut out, or it is stretched."""


MAPS = ("given", "edges")
"""What is made of a picture that steers: nothing (it is a map already), or its edges."""


@dataclasses.dataclass(frozen=True)
class MapSettings:
    """Settings of a network that reads a map of a picture; which network, which picture, and when it counts."""

    model: str = setting("", "The network that reads it.")
    picture: str = setting("", "The picture that steers.")
    map: str = setting(
        "given",
        "given: the picture is a map already (lines, depth, a pose, a mask); edges: its edges are found first.",
        choices=MAPS,
        label="Map",
    )
    low: float = setting(0.1, "A line is followed while its edge is stronger than this.", low=0, high=1, step=0.01)
    high: float = setting(0.2, "A line begins where its edge is stronger than this.", low=0, high=1, step=0.01)
    fit: str = setting("crop", "What is done to a picture of other proportions.", choices=FITS, label="Resize mode")
    strength: float = setting(1.0, "Factor on what it adds; 0 adds nothing.", low=0, high=2, step=0.05)
    begin: float = setting(0.0, "Share of the steps after which it begins.", low=0, high=1, step=0.05, label="From")
    end: float = setting(1.0, "Share of the steps after which it ends.", low=0, high=1, step=0.05, label="To")


def make_map(
    pixels: np.ndarray, size: tuple[int, int], fit: str, kind: str, thresholds: tuple[float, float]
) -> np.ndarray:
    """Make what a network reads, (H, W, 3), uint8, of a picture.

    Args:
        pixels: the picture, (H, W, 3), uint8.
        size: (width, height).
        fit: of FITS.
        kind: of MAPS.
        thresholds: the lower and the upper of `find_edges`.
    """
    fitted = fit_picture(pixels, size, fit)
    return find_edges(fitted, *thresholds) if kind == "edges" else fitted


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

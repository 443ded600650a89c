"""Where an object goes that is moved or resized: its pixels there, and what it leaves behind."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pipelines.core.errors import SettingsError

__all__ = ["Placement", "Placing", "fill_hole", "place_object"]

_RELAXATIONS = 200
"""Rounds in which a filled hole's pixels become the mean of their neighbors."""


@dataclasses.dataclass(frozen=True)
class Placing:
    """Says where an object goes.

    Attributes:
        right, down: by which share of the picture's width and height.
        scale: factor on its size, about its middle.
    """

    right: float
    down: float
    scale: float

    @property
    def is_neutral(self) -> bool:
        """Whether it stays as it is."""
        return not self.right and not self.down and self.scale == 1


@dataclasses.dataclass(frozen=True)
class Placement:
    """Describes a picture whose object was moved.

    Attributes:
        pixels: (H, W, 3) uint8, the object at its new place, and where it was the colors around it.
        before, after: (H, W) bool, where it was and is.
    """

    pixels: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @property
    def hole(self) -> np.ndarray:
        """(H, W) bool, what it left behind."""
        return self.before & ~self.after


def place_object(pixels: np.ndarray, mask: np.ndarray, placing: Placing) -> Placement:
    """Cut an object out, put it elsewhere, and fill what it leaves with the colors around it.

    At scale 1 its pixels are copied one by one; what lies beyond the picture's edge is lost.

    Args:
        pixels: (H, W, 3) uint8.
        mask: (H, W) bool, the object.
        placing: where it goes.

    Raises:
        SettingsError: it would leave the picture, or be less than a pixel large.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    size = round((right - left) * placing.scale), round((bottom - top) * placing.scale)
    if min(size) < 1:
        raise SettingsError(f"At {placing.scale:g} of its size nothing is left of the object. Choose a larger scale.")
    x = round((left + right) / 2 + placing.right * width - size[0] / 2)
    y = round((top + bottom) / 2 + placing.down * height - size[1] / 2)
    filled = fill_hole(pixels, mask)
    cut = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
    part = Image.fromarray(pixels[top:bottom, left:right])
    if placing.scale != 1:
        part, cut = part.resize(size, Image.Resampling.LANCZOS), cut.resize(size, Image.Resampling.BOX)
    stencil = Image.new("L", (width, height))
    stencil.paste(cut.point(lambda value: 255 * (value >= 128)), (x, y))
    after = np.asarray(stencil) > 0
    if not after.any():
        raise SettingsError("The object would leave the picture. Move it less far.")
    moved = Image.fromarray(filled)
    moved.paste(part, (x, y))
    return Placement(np.where(after[..., None], np.asarray(moved), filled), mask, after)


def fill_hole(pixels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill a hole with a smooth surface through the colors along its rim: the harmonic one, nearly.

    Args:
        pixels: (H, W, 3) uint8.
        hole: (H, W) bool; of one that is the whole picture nothing is known, and nothing changes.
    """
    if not hole.any() or hole.all():
        return pixels
    known = torch.from_numpy((~hole).astype(np.float32))[None, None]
    values = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    inside, kernel = 1 - known, torch.ones(4, 1, 3, 3)
    kernel[:, :, ::2, ::2] = kernel[:, :, 1, 1] = 0
    while (inside * (1 - known)).any():  # layer by layer, each the mean of its known neighbors
        sums = F.conv2d(torch.cat([values * known, known], dim=1), kernel, padding=1, groups=4)
        layer = (sums[:, 3:] > 0) & (known == 0)
        values = torch.where(layer, sums[:, :3] / sums[:, 3:].clamp_min(1), values)
        known = known + layer.float()
    for _ in range(_RELAXATIONS):
        padded = F.pad(values, (1, 1, 1, 1), mode="replicate")
        smoothed = F.conv2d(padded, kernel[:3] / 4, groups=3)
        values = torch.where(inside > 0, smoothed, values)
    filled: np.ndarray = values.round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()
    return filled

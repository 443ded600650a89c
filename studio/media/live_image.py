"""Small pictures for the page, many a second, without touching the disk."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

__all__ = ["contact_sheet", "jpeg", "picture_url", "png_url"]

QUALITY = 78
LARGEST, SMALLEST = 512, 192
_CRISP = 128
"""Pixels of the longer side up to which a picture travels as a PNG as it is, and the browser enlarges it."""


def jpeg(pixels: np.ndarray) -> bytes:
    """A small JPEG of a picture.

    Args:
        pixels: (H, W, 3) uint8. More than 512 pixels a side are scaled down; fewer than 192, as a preview
            straight from latents has, are scaled up smoothly.
    """
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    longer = max(picture.size)
    scale = LARGEST / longer if longer > LARGEST else SMALLEST / longer if longer < SMALLEST else 1
    if scale != 1:
        size = tuple(max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def png_url(pixels: np.ndarray) -> str:
    """A data URL of a whole picture (H, W, 3), uint8, without loss: for one that has no file to be fetched."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def picture_url(pixels: np.ndarray) -> str:
    """A data URL of a picture (H, W, 3), uint8: small ones as PNG, larger ones as JPEG of at most 512 pixels a side."""
    if max(pixels.shape[:2]) > _CRISP:
        return "data:image/jpeg;base64," + base64.b64encode(jpeg(pixels)).decode("ascii")
    return png_url(pixels)


def contact_sheet(pictures: np.ndarray) -> np.ndarray:
    """A batch side by side, in the squarest grid.

    Args:
        pictures: (B, H, W, 3) uint8.

    Returns:
        (rows * H, columns * W, 3) uint8; places left over are black.
    """
    count, height, width, channels = pictures.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[:count] = pictures
    sheet = sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return sheet.reshape(rows * height, columns * width, channels)

"""Small pictures for the page, many a second, without touching the disk."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = [
    "build_contact_sheet",
    "encode_file_url",
    "encode_icon_url",
    "encode_jpeg",
    "encode_picture_url",
    "encode_png_url",
]

QUALITY = 78
LARGEST, SMALLEST = 512, 192
_ICON = 48
_CRISP = 128
"""Pixels of the longer side up to which a picture travels as a PNG as it is, and the browser enlarges it."""


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """Encode a picture as a small JPEG.

    Args:
        pixels: (H, W, 3) uint8. More than 512 pixels a side are scaled down; fewer than 192, as a preview
            straight from latents has, are scaled up smoothly.
    """
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    longer = max(picture.size)
    scale = LARGEST / longer if longer > LARGEST else SMALLEST / longer if longer < SMALLEST else 1
    if scale != 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def encode_png_url(pixels: np.ndarray) -> str:
    """Encode a whole picture (H, W, 3), uint8, as a data URL without loss: for one that has no file to be fetched."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def encode_picture_url(pixels: np.ndarray) -> str:
    """Encode a picture (H, W, 3), uint8, as a data URL: small ones as PNG, larger ones as JPEG of at most 512 pixels a
    side."""
    if max(pixels.shape[:2]) > _CRISP:
        return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(pixels)).decode("ascii")
    return encode_png_url(pixels)


def encode_file_url(path: Path) -> str:
    """Encode a picture file as it is as a data URL: for small ones that belong to the page itself."""
    kind = {".webp": "webp", ".png": "png", ".jpg": "jpeg"}[path.suffix]
    return f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def encode_icon_url(path: Path) -> str:
    """Encode a picture file, of a clip its first frame, as a data URL of at most 48 pixels a side: for a button."""
    with Image.open(path) as picture:
        icon = picture.convert("RGB")
    icon.thumbnail((_ICON, _ICON))
    buffer = io.BytesIO()
    icon.save(buffer, "WEBP", quality=75)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def build_contact_sheet(pictures: np.ndarray) -> np.ndarray:
    """Put a batch side by side, in the squarest grid.

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

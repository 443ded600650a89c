"""A mask as the page holds it: a small PNG as a data URL, in a text that every handler of the form receives."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from PIL import Image

from pipelines.core.errors import PictureError
from studio.safety.uploads import check_picture

__all__ = ["BOARD", "decode_mask", "encode_mask"]

BOARD = 1024
"""Pixels of the longest side of what the page draws on (assets/js/masks.js)."""

_PREFIX = "data:image/png;base64,"
_MAX_TEXT = 4 * 2**20
_INK = "#ff2d6f"
_UNREADABLE = "The mask could not be read. Clear it and draw it again."


def encode_mask(mask: np.ndarray | None) -> str:
    """Return the text that shows a mask (H, W) bool on the page; "" for none."""
    if mask is None:
        return ""
    stencil = Image.fromarray(mask.astype(np.uint8) * 255)
    if max(stencil.size) > BOARD:
        stencil.thumbnail((BOARD, BOARD), Image.Resampling.BOX)
    picture = Image.new("RGBA", stencil.size, _INK)
    picture.putalpha(stencil)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return _PREFIX + base64.b64encode(stream.getvalue()).decode()


def decode_mask(text: str | None, size: tuple[int, int]) -> np.ndarray | None:
    """Return the drawn mask at the picture's own size; a pixel is masked if a quarter of it is.

    Args:
        text: from the page, untrusted.
        size: (width, height) of the picture.

    Returns:
        (H, W) bool; None where nothing is drawn.

    Raises:
        PictureError: the text is not what the page draws.
    """
    if not text:
        return None
    if not isinstance(text, str) or len(text) > _MAX_TEXT or not text.startswith(_PREFIX):
        raise PictureError(_UNREADABLE)
    try:
        content = base64.b64decode(text[len(_PREFIX) :], validate=True)
        check_picture(io.BytesIO(content), BOARD**2)
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            drawn = picture.convert("RGBA").getchannel("A")
    except (binascii.Error, OSError, ValueError, SyntaxError, PictureError) as error:
        raise PictureError(_UNREADABLE) from error
    mask = np.asarray(drawn.resize(size, Image.Resampling.BOX)) >= 64
    return mask if mask.any() else None

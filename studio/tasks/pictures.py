"""Pictures that a person or a program hands to a task."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
from PIL import Image

from pipelines.core.errors import PictureError
from pipelines.workflows.edit.request import Picture
from studio.media.pictures import open_picture

__all__ = ["read_mask", "read_picture"]


def _opened(value: Any, what: str) -> Image.Image:
    """A picture from its file's bytes, or from these as base64 or a data URL.

    Raises:
        PictureError: it is something else, or cannot be read.
    """
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, str):
        try:
            value = base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
        except (binascii.Error, ValueError):
            raise PictureError(
                f"The {what} is given as {value[:40]!r}. Give the bytes of its file as base64."
            ) from None
    if not isinstance(value, bytes):
        raise PictureError(f"The {what} is given as {str(value)[:40]!r}. Give the bytes of its file as base64.")
    return open_picture(value, mask=what == "mask")


def read_picture(value: Any) -> Picture:
    """The source picture of an edit; what is transparent becomes white.

    Args:
        value: a PIL picture as `open_picture` gives it, or a file's bytes, plain or as base64.

    Raises:
        PictureError: it cannot be read.
    """
    if isinstance(value, Picture):
        return value
    opened = _opened(value, "picture")
    notes = list(opened.info.get("notes", ()))
    if opened.mode == "RGBA":
        if opened.getextrema()[3][0] < 255:
            notes.append("What was transparent is white.")
        opened = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened)
    return Picture(np.asarray(opened.convert("RGB")), tuple(notes))


def read_mask(value: Any) -> Picture:
    """The mask of an edit: white, or opaque where a picture has transparent parts, may change.

    Args:
        value: a boolean array (H, W), or what `read_picture` takes.

    Raises:
        PictureError: it cannot be read.
    """
    if isinstance(value, Picture):
        return value
    if isinstance(value, np.ndarray) and value.dtype == bool and value.ndim == 2:
        return Picture(value)
    opened = _opened(value, "mask")
    return Picture(np.asarray(opened.getchannel("A") if opened.mode == "RGBA" else opened.convert("L")) > 127)

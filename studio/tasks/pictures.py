"""Pictures that a person or a program hands to a task."""

from __future__ import annotations

import base64
import binascii

import numpy as np
from PIL import Image

from pipelines.core.errors import PictureError
from pipelines.workflows.edit.request import Picture
from studio.media.pictures import open_picture

__all__ = ["read_mask", "read_picture"]


def _open_untrusted(value: object, label: str) -> Image.Image:
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
                f"The {label} is given as {value[:40]!r}. Give the bytes of its file as base64."
            ) from None
    if not isinstance(value, bytes):
        raise PictureError(f"The {label} is given as {str(value)[:40]!r}. Give the bytes of its file as base64.")
    return open_picture(value, mask=label == "mask")


def read_picture(value: object) -> Picture:
    """Read the source picture of an edit; what is transparent becomes white.

    Args:
        value: a PIL picture as `open_picture` gives it, or a file's bytes, plain or as base64.

    Raises:
        PictureError: it cannot be read.
    """
    if isinstance(value, Picture):
        return value
    picture = _open_untrusted(value, "picture")
    notes = list(picture.info.get("notes", ()))
    if picture.mode == "RGBA":
        if np.asarray(picture.getchannel("A")).min() < 255:
            notes.append("What was transparent is white.")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return Picture(np.asarray(picture.convert("RGB")), tuple(notes))


def read_mask(value: object) -> Picture:
    """Read the mask of an edit: white, or opaque where a picture has transparent parts, may change.

    Args:
        value: a boolean array (H, W), or what `read_picture` takes.

    Raises:
        PictureError: it cannot be read.
    """
    if isinstance(value, Picture):
        return value
    if isinstance(value, np.ndarray) and value.dtype == bool and value.ndim == 2:
        return Picture(value)
    picture = _open_untrusted(value, "mask")
    alpha = np.asarray(picture.getchannel("A")) if picture.mode == "RGBA" else None
    if alpha is None or alpha.min() == 255:  # programs save an alpha channel of which nothing is transparent
        return Picture(np.asarray(picture.convert("L")) > 127)
    return Picture(alpha > 127)

"""Pictures that the command line writes: the name's suffix chooses the format, the settings go along."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pipelines.core.errors import SettingsError
from studio.infotext.embed import OUR_CHUNK, encode, texts

__all__ = ["PICTURE_SUFFIXES", "require_suffix", "write_picture", "write_result"]

PICTURE_SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Suffix to format, in any case."""


def require_suffix(path: Path, others: Sequence[str] = ()) -> None:
    """Refuse a name that says no format of ours; to be asked before the run.

    Args:
        path: to write to.
        others: suffixes that the command writes besides pictures.

    Raises:
        SettingsError: it ends in something else.
    """
    known = (*PICTURE_SUFFIXES, *others)
    if path.suffix.lower() not in known:
        raise SettingsError(f"{path.name!r} does not say which file to write. End it in {', '.join(known)}.")


def write_result(stored: Path, path: Path) -> None:
    """Write a stored picture with its settings under a name whose suffix `require_suffix` let through.

    Raises:
        StoreError: the format cannot hold it.
        OSError: it cannot be written.
    """
    if path.suffix.lower() == stored.suffix:
        shutil.copyfile(stored, path)
        return
    with Image.open(stored) as picture:
        found = texts(picture)
        write_picture(picture, path, found.get("parameters", ""), found.get(OUR_CHUNK, ""))


def write_picture(picture: Image.Image, path: Path, parameters: str = "", ours: str = "") -> None:
    """Write a picture under a name whose suffix `require_suffix` let through.

    Args:
        picture: any mode.
        path: to write to.
        parameters: the A1111-style text; empty for none.
        ours: our JSON; empty for none.

    Raises:
        StoreError: the format cannot hold it.
        OSError: it cannot be written.
    """
    path.write_bytes(encode(picture, PICTURE_SUFFIXES[path.suffix.lower()], parameters, ours))

"""Pictures in files of a person's own: the name's suffix chooses the format, the settings go along."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core.errors import SettingsError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PICTURES", "PICTURE_SUFFIXES", "require_suffix", "require_writable", "write_picture", "write_result"]

PICTURE_SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Suffix to format, in any case."""

PICTURES = tuple(PICTURE_SUFFIXES)


def require_suffix(path: Path, suffixes: Sequence[str] = PICTURES) -> None:
    """Refuse a name that says no format of ours; to be asked before the run.

    Args:
        path: to write to.
        suffixes: suffixes that can be written, in lower case.

    Raises:
        SettingsError: it ends in something else.
    """
    if path.suffix.lower() not in suffixes:
        raise SettingsError(f"{path.name!r} does not say which file to write. End it in {', '.join(suffixes)}.")


def require_writable(path: Path) -> None:
    """Raise an error unless a file can be written under this name, before a run that may take long.

    Raises:
        SettingsError: its folder is not there or cannot be written to, or the name is a folder's.
    """
    folder = path.parent
    if path.is_dir():
        raise SettingsError(f"{str(path)!r} is a folder. Name a file.")
    if not folder.is_dir():
        raise SettingsError(f"The folder {str(folder)!r} is not there. Make it, or name a file in another.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise SettingsError(f"{str(path)!r} cannot be written. Name another file.")


def write_result(source: Path, path: Path) -> None:
    """Write a stored picture with its settings under a name whose suffix `require_suffix` let through.

    Raises:
        StoreError: the format cannot hold it.
        OSError: it cannot be written.
    """
    if path.suffix.lower() == source.suffix:
        shutil.copyfile(source, path)
        return
    from PIL import Image  # late: the command line's help does without Pillow

    from studio.infotext.embed import OUR_CHUNK, read_all_texts

    with Image.open(source) as picture:
        texts = read_all_texts(picture)
        write_picture(picture, path, texts.get("parameters", ""), texts.get(OUR_CHUNK, ""))


def write_picture(picture: Image.Image, path: Path, parameters: str = "", own_json: str = "") -> None:
    """Write a picture under a name whose suffix `require_suffix` let through.

    Args:
        picture: any mode.
        path: to write to.
        parameters: the A1111-style text; empty for none.
        own_json: our JSON; empty for none.

    Raises:
        StoreError: the format cannot hold it.
        OSError: it cannot be written.
    """
    from studio.infotext.embed import encode  # late: see `write_result`

    path.write_bytes(encode(picture, PICTURE_SUFFIXES[path.suffix.lower()], parameters, own_json))

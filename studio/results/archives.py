"""Files that the gallery makes: small pictures for its tiles, and archives to take away."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import secrets
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.core.errors import SettingsError, StoreError
from studio.infotext.embed import FORMATS
from studio.results.file_names import build_unique_names
from studio.results.store import Record

__all__ = ["LARGEST_ARCHIVE", "MOST_PACKED", "PICTURES", "THUMBNAILS", "describe_record", "make_thumbnail", "pack"]

THUMBNAILS = ".thumbnails"
"""Folder of the small pictures in the page's temporary folder: hidden, so that no route gives its files by their names
when the result was deleted or belongs to somebody else."""

PICTURES = frozenset(FORMATS.values()) | {".gif"}
"""Suffixes of results that Pillow can show."""

LARGEST_ARCHIVE = 1024**3
"""Bytes of the results in one archive."""

MOST_PACKED = 1000
"""Results in one archive."""

_SIDE = 320
_AS_IT_IS = 48_000
"""Bytes of a small picture up to which it is its own thumbnail."""

_MOST_PIXELS = 64_000_000
_FRESH = 3600.0


def make_thumbnail(record: Record, folder: Path) -> Path | None:
    """Make a small picture of a result when it is first asked for.

    Args:
        record: of the store.
        folder: inside the page's temporary folder, which is pruned by age and by bytes.

    Returns:
        The result itself where it is small; None for what is no picture or cannot be read. Of a clip it is the
        poster that was stored with it.
    """
    poster = record.metadata.get("poster")
    if record.path.suffix not in PICTURES and not isinstance(poster, str):
        return None
    small = record.size <= _AS_IT_IS and max(record.width, record.height) <= _SIDE
    if small and poster is None and record.path.suffix != ".gif":
        return record.path
    target = folder / f"{record.id}.jpg"
    try:
        if target.exists():
            if time.time() - target.stat().st_mtime > _FRESH:
                os.utime(target)  # what is looked at stays
            return target
        folder.mkdir(parents=True, exist_ok=True)
        data = _shrink(io.BytesIO(base64.b64decode(poster)) if isinstance(poster, str) else record.path)
        partial = folder / f"{record.id}-{secrets.token_hex(4)}.part"
        data.save(partial, "JPEG", quality=82)
        partial.replace(target)
    except Exception:  # damaged in whatever way, or the disk is full: the tile then says that it cannot be shown
        return None
    return target


def _shrink(source: Path | io.BytesIO) -> Image.Image:
    with Image.open(source, formats=("PNG", "JPEG", "WEBP", "GIF")) as picture:
        if picture.width * picture.height > _MOST_PIXELS:
            raise StoreError(
                f"A picture of {picture.width} × {picture.height} pixels has too many pixels for a thumbnail."
            )
        picture.draft("RGB", (_SIDE, _SIDE))
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
        if not picture.has_transparency_data:
            return picture.convert("RGB")
        clear = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "#ffffff"), clear).convert("RGB")


def describe_record(record: Record) -> dict[str, Any]:
    """Describe a result as plain values for programs: what it is and how it was made, without its file."""
    names = ("id", "kind", "created", "job", "index", "width", "height", "size", "prompt", "parameters", "favorite")
    return {
        **{name: getattr(record, name) for name in names},
        "name": record.path.name,
        "metadata": dict(record.metadata),
    }


def pack(records: Sequence[Record], target: Path, pattern: str = "") -> Path:
    """Write results and a table of their settings into a zip file, whole or not at all.

    Args:
        records: of the store.
        target: the file to write.
        pattern: of the files' names inside, as `build_file_name` takes it.

    Raises:
        SettingsError: nothing is chosen, or too much; the pattern has a word that is not known.
        StoreError: it cannot be written.
    """
    _check(records)
    names = build_unique_names(pattern, list(records))
    partial = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Stored, since pictures and clips are compressed already.
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for record, name in zip(records, names, strict=True):
                archive.write(record.path, name)
            archive.writestr("results.json", _write_table(records), zipfile.ZIP_DEFLATED)
        partial.replace(target)
    except OSError as error:
        raise StoreError(
            f"The archive cannot be written: {error.strerror or error}. Make room, or choose less."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return target


def _check(records: Sequence[Record]) -> None:
    if not records:
        raise SettingsError("Nothing is selected. Select the results that the archive should hold.")
    if len(records) > MOST_PACKED:
        raise SettingsError(f"{len(records)} results are selected, and an archive holds {MOST_PACKED} at most.")
    size = sum(record.size for record in records)
    if size > LARGEST_ARCHIVE:
        raise SettingsError(
            f"These results have {size / 1e9:.1f} GB, and an archive holds {LARGEST_ARCHIVE / 1e9:.1f} GB at most: "
            "choose fewer."
        )


def _write_table(records: Sequence[Record]) -> str:
    rows: Sequence[Mapping[str, Any]] = [describe_record(record) for record in records]
    return json.dumps(rows, indent=1, ensure_ascii=False, default=str)

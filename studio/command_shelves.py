"""`python -m studio gallery` and `python -m studio models`: what there is, in lines."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["SHELVES", "add_shelves"]


def add_shelves(commands: Any) -> None:
    """Add both commands to the parser's."""
    gallery = commands.add_parser("gallery", help="list results, the newest first")
    gallery.add_argument("--search", default="", metavar="WORDS", help="words that the prompt holds")
    gallery.add_argument("--kind", default="", help="only these, e.g. text_to_image")
    gallery.add_argument("--limit", type=int, default=20, help="how many (default: 20)")
    gallery.add_argument("--export", type=Path, metavar="FILE", help="write them into this .zip file")
    commands.add_parser("models", help="list models and LoRAs, and where they are")


def _gallery(studio: Studio, flags: argparse.Namespace) -> Iterator[str]:
    from studio.gallery_files import pack
    from studio.shelves import results

    found, more = results(studio, flags.search, flags.kind, flags.limit)
    if flags.export is not None:
        yield str(pack(found, flags.export))
        return
    for record in found:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.created))
        yield f"{record.path}  {made}  {record.kind}  {' '.join(record.prompt.split())[:80]}"
    if more:
        yield "There are more: choose a larger --limit."


def _models(studio: Studio, flags: argparse.Namespace) -> Iterator[str]:
    from studio.presentation import file_size
    from studio.shelves import listed_models

    told = listed_models(studio)
    words = {"here": "on this machine", "hub": "to be fetched"}
    for row in told["models"]:
        where = row["problem"] or words.get(row["where"], row["where"])
        gate = ", to be accepted" if row["gated"] else ""
        yield (
            f"{row['key']:<28} {row['family']:<6} {file_size(row['size_bytes']) or '-':>8}  "
            f"{(row['licence'] or 'licence not confirmed') + gate}: {where}"
        )
    for row in told["loras"]:
        state = row["problem"] or row["family"] or "any family"
        yield f"{row['key']:<28} LoRA   {file_size(row['size_bytes']) or '-':>8}  {state}"
    yield f"Models folder: {told['folder']}"


SHELVES = {"gallery": _gallery, "models": _models}
"""Command to what runs it, a line at a time."""

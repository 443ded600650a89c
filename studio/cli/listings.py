"""`python -m studio gallery` and `python -m studio models`: what there is, in lines, and what can be done with it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["SHELVES", "add_shelves"]

_EVERY = 0.1


def add_shelves(commands: Any) -> None:
    """Add both commands to the parser's."""
    gallery = commands.add_parser("gallery", help="list results, the newest first; delete, restore and export them")
    gallery.add_argument("--search", default="", metavar="WORDS", help="words that the prompt holds")
    gallery.add_argument("--kind", default="", help="only these, e.g. text_to_image")
    gallery.add_argument("--limit", type=int, default=20, help="how many (default: 20)")
    what = gallery.add_mutually_exclusive_group()
    what.add_argument("--export", type=Path, metavar="FILE", help="write them into this .zip file")
    for action, words in (("delete", "move this result into the trash"), ("restore", "take it out of the trash")):
        what.add_argument(f"--{action}", action="append", default=[], metavar="ID", help=f"{words}; repeat for more")
    models = commands.add_parser(
        "models", help="list models and LoRAs, and where they are, as the models folder is now; fetch and try them"
    )
    fetch = models.add_mutually_exclusive_group()
    fetch.add_argument(
        "--download", metavar="KEY", help="fetch this model of the catalog; Ctrl+C stops, and it goes on later"
    )
    fetch.add_argument(
        "--load", metavar="KEY", help="load it and say what it takes; it is released when the command ends"
    )


def _gallery(studio: Studio, flags: argparse.Namespace) -> Iterator[str]:
    from studio.api.listings import change_results, results
    from studio.results.archives import pack

    for action in ("delete", "restore"):
        if ids := getattr(flags, action):
            yield from change_results(studio, action, ids)["changed"]
            return
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
    from studio.api.listings import listed_models
    from studio.ui.presentation import file_size

    for action in ("download", "load"):
        if (key := getattr(flags, action)) is not None:
            yield _fetched(studio, action, key)
            return
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


def _fetched(studio: Studio, action: str, key: str) -> str:
    """Wait for a load or a download, its progress on one line; then a sentence on it.

    Raises:
        StepwiseError: it failed, or was stopped.
    """
    from pipelines.core.errors import ModelError
    from studio.models.model_list import memory_of
    from studio.ui.presentation import file_size

    model_list = studio.model_list
    errand = model_list.start(key, action)
    try:
        while errand.status == "running":
            print(f"\r{errand.stage or 'Beginning'}: {errand.done / 1e6:.0f} MB ", end="", file=sys.stderr, flush=True)
            time.sleep(_EVERY)
    except KeyboardInterrupt:
        model_list.cancel(key)
        raise ModelError("Stopped; what has arrived is kept, and the next download goes on from there.") from None
    finally:
        print(file=sys.stderr)
    if errand.status != "done":
        raise ModelError(errand.message or f"The {action} was stopped.")
    label, held = studio.catalog[key].label, sum(one.bytes for one in memory_of(studio.loader)[0])
    return (
        f"{label} is on this machine."
        if action == "download"
        else f"{label} loads, and takes {file_size(held)} of memory."
    )


SHELVES = {"gallery": _gallery, "models": _models}
"""Command to what runs it, a line at a time."""

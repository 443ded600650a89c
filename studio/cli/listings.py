"""`python -m studio gallery` and `python -m studio models`: what there is, in lines, and what can be done with it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.results.options import NEWEST, ORDERS, ListOptions

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["LISTINGS", "add_listings"]

_ACTIONS = {
    "delete": "move this result into the trash",
    "restore": "take it out of the trash",
    "star": "mark this result as a favorite",
    "unstar": "mark it as none",
}
_EVERY = 0.1


def add_listings(commands: Any) -> None:
    """Add both commands to the parser's."""
    gallery = commands.add_parser("gallery", help="list results; delete, restore, star and export them")
    gallery.add_argument("--search", default="", metavar="WORDS", help="words that the prompt holds")
    gallery.add_argument("--kind", default="", help="only these, e.g. text_to_image")
    gallery.add_argument("--model", default="", metavar="KEY", help="only what this model made")
    gallery.add_argument("--favorites", action="store_true", help="only favorites")
    gallery.add_argument("--sort", choices=tuple(ORDERS), default=NEWEST, help=f"order of the list (default: {NEWEST})")
    gallery.add_argument("--limit", type=int, default=20, help="how many (default: 20)")
    actions = gallery.add_mutually_exclusive_group()
    actions.add_argument("--export", type=Path, metavar="FILE", help="write them into this .zip file")
    actions.add_argument("--empty-trash", action="store_true", help="remove for good what was deleted")
    for action, words in _ACTIONS.items():
        actions.add_argument(f"--{action}", action="append", default=[], metavar="ID", help=f"{words}; repeat for more")
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


def _run_gallery(studio: Studio, flags: argparse.Namespace) -> Iterator[str]:
    from studio.api.listings import change_results, find_results
    from studio.results.archives import pack
    from studio.safety.people import PROGRAM

    for action in _ACTIONS:
        if ids := getattr(flags, action):
            yield from change_results(studio.results(PROGRAM), action, ids)["changed"]
            return
    if flags.empty_trash:
        freed = studio.store.empty_trash()
        yield f"{freed.results} deleted results removed for good, {freed.bytes / 1e6:.1f} MB freed."
        return
    options = ListOptions.parse(flags.model, flags.favorites, flags.sort)
    records, has_more = find_results(studio.results(PROGRAM), flags.search, flags.kind, flags.limit, options=options)
    if flags.export is not None:
        yield str(pack(records, flags.export))
        return
    for record in records:
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.created))
        yield f"{record.path}  {date}  {record.kind}  {' '.join(record.prompt.split())[:80]}"
    if has_more:
        yield "There are more: choose a larger --limit."


def _run_models(studio: Studio, flags: argparse.Namespace) -> Iterator[str]:
    from studio.api.listings import list_models
    from studio.ui.presentation import format_file_size

    for action in ("download", "load"):
        if (key := getattr(flags, action)) is not None:
            yield _fetch_model(studio, action, key)
            return
    listing = list_models(studio)
    words = {"here": "on this machine", "hub": "to be fetched"}
    for row in listing["models"]:
        place = row["problem"] or words.get(row["where"], row["where"])
        gate = ", to be accepted" if row["gated"] else ""
        yield (
            f"{row['key']:<28} {row['family']:<6} {format_file_size(row['size_bytes']) or '-':>8}  "
            f"{(row['licence'] or 'license not confirmed') + gate}: {place}"
        )
    for row in listing["loras"]:
        state = row["problem"] or row["family"] or "any family"
        yield f"{row['key']:<28} LoRA   {format_file_size(row['size_bytes']) or '-':>8}  {state}"
    for row in listing["embeddings"]:
        state = row["problem"] or row["family"] or "any family"
        yield f"{row['key']:<28} word   {format_file_size(row['size_bytes']) or '-':>8}  {state}"
    for row in listing["upscalers"]:
        yield f"{row['key']:<28} upscal {format_file_size(row['size_bytes']) or '-':>8}  {row['problem'] or 'ready'}"
    yield f"Models folder: {listing['folder']}"


def _fetch_model(studio: Studio, action: str, key: str) -> str:
    """Wait for a load or a download, its progress on one line; then a sentence on it.

    Raises:
        StepwiseError: it failed, or was stopped.
    """
    from pipelines.core.errors import ModelError
    from studio.models.model_list import list_memory_segments
    from studio.ui.presentation import format_file_size

    model_list = studio.model_list
    transfer = model_list.start(key, action)
    try:
        while transfer.status == "running":
            print(
                f"\r{transfer.stage or 'Beginning'}: {transfer.done / 1e6:.0f} MB ", end="", file=sys.stderr, flush=True
            )
            time.sleep(_EVERY)
    except KeyboardInterrupt:
        model_list.cancel(key)
        raise ModelError("Stopped; what has arrived is kept, and the next download goes on from there.") from None
    finally:
        print(file=sys.stderr)
    if transfer.status != "done":
        raise ModelError(transfer.message or f"The {action} was stopped.")
    label, memory_bytes = studio.catalog[key].label, sum(one.bytes for one in list_memory_segments(studio.loader)[0])
    return (
        f"{label} is on this machine."
        if action == "download"
        else f"{label} loads, and takes {format_file_size(memory_bytes)} of memory."
    )


LISTINGS = {"gallery": _run_gallery, "models": _run_models}
"""Command to what runs it, a line at a time."""

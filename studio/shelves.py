"""Results and models as programs list them: the same for the endpoints and for the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.catalog import shown
from pipelines.errors import SettingsError
from pipelines.types import is_text, is_whole
from studio.gallery_files import listed
from studio.gallery_records import find
from studio.model_shelf import ModelShelf, lora_row, memory_of, model_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from studio.backend import Studio
    from studio.store import Record

__all__ = ["MOST", "listed_models", "listed_results", "results"]

MOST = 1000
"""Results in one answer."""


def results(
    studio: Studio, search: Any = "", kind: Any = "", limit: Any = 20, before: Any = ""
) -> tuple[Sequence[Record], bool]:
    """The newest results of a search, and whether there are more.

    Args:
        search: words of the prompt.
        kind: only these, "" for all.
        limit: 1 to 1000.
        before: id of the last result of the page before.

    Raises:
        SettingsError: a value of the wrong type, or a limit outside its range.
        StoreError: there is no result `before`.
    """
    for name, value in (("search", search), ("kind", kind), ("before", before)):
        if not is_text(value):
            raise SettingsError(f"{name} is {str(value)[:80]!r}, and must be text.")
    if not is_whole(limit) or not 1 <= limit <= MOST:
        raise SettingsError(f"limit is {str(limit)[:80]!r}, and must be a whole number from 1 to {MOST}.")
    if before:
        studio.store.get(before)
    return find(studio.store, search[:2000], kind, int(limit), before=before)


def listed_results(
    studio: Studio, search: Any = "", kind: Any = "", limit: Any = 20, before: Any = ""
) -> dict[str, Any]:
    """`results` as plain values, with how many there are of each kind."""
    found, more = results(studio, search, kind, limit, before)
    return {"results": [listed(record) for record in found], "more": more, "kinds": dict(studio.store.kinds())}


def listed_models(studio: Studio) -> dict[str, Any]:
    """The catalogue, the LoRAs, and what is in memory, as plain values."""
    shelf = ModelShelf(studio)
    segments, limit = memory_of(studio)
    rows = [dict(model_row(entry, shelf.here(entry), studio.loader.loaded(entry.key))) for entry in studio.models()]
    held = [{"models": list(one.models), "bytes": one.bytes, "in_use": one.in_use} for one in segments]
    return {
        "models": rows,
        "loras": [dict(lora_row(lora)) for lora in shelf.loras()],
        "folder": shown(studio.catalog.folder),
        "memory": {"limit_bytes": limit, "used_bytes": sum(one.bytes for one in segments), "held": held},
    }

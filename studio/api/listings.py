"""Results and models as programs list them: the same for the endpoints and for the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.types import is_text, is_whole
from pipelines.models.catalog import shown
from studio.models.model_list import DOWNLOAD, LOAD, lora_row, memory_of, model_row
from studio.results.archives import listed
from studio.results.search import existing, find

if TYPE_CHECKING:
    from collections.abc import Sequence

    from studio.backend import Studio
    from studio.results.store import Record

__all__ = ["MOST", "change_models", "change_results", "listed_models", "listed_results", "results"]

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
    """The catalog, the LoRAs, and what is in memory, as plain values."""
    model_list = studio.model_list
    segments, limit = memory_of(studio.loader)
    rows = [
        dict(model_row(entry, model_list.here(entry), studio.loader.loaded(entry.key))) for entry in studio.models()
    ]
    held = [{"models": list(one.models), "bytes": one.bytes, "in_use": one.in_use} for one in segments]
    return {
        "on_their_way": model_list.errands(),
        "models": rows,
        "loras": [dict(lora_row(lora)) for lora in model_list.loras()],
        "folder": shown(studio.catalog.folder),
        "memory": {"limit_bytes": limit, "used_bytes": sum(one.bytes for one in segments), "held": held},
    }


def change_results(studio: Studio, action: Any, ids: Any) -> dict[str, Any]:
    """Delete results, which `restore` takes back as long as they lie in the trash, as the gallery's buttons do.

    Args:
        studio: for the store.
        action: "delete" or "restore".
        ids: of results; nothing else of them is looked at, no name and no path.

    Returns:
        The ids that were changed: those that already were as wished are left out, and so are those that exist no more.

    Raises:
        SettingsError: another action, or no such result.
        StoreError: a file cannot be moved.
    """
    changes = {"delete": studio.store.delete, "restore": studio.store.restore}
    if not isinstance(action, str) or action not in changes:
        raise UnknownMethodError("action", action, changes)
    away = action == "delete"
    wanted = [record.id for record in existing(studio.store, ids) if (record.trashed is None) == away]
    return {"action": action, "changed": [changes[action](one).id for one in wanted]}


def change_models(studio: Studio, action: Any, model: Any = "") -> dict[str, Any]:
    """Do what a card's button on the Models tab does; loads and downloads go on behind the answer, as there.

    Args:
        studio: catalog and loader.
        action: "load", "download", "cancel", "release" or "rescan".
        model: key of the catalog; no path and no address. Empty for "rescan".

    Returns:
        Whether something was done, and `listed_models` after it.

    Raises:
        SettingsError: another action, or no model of this key.
        ModelError: it cannot be used, and why.
        BusyError: enough are on their way.
    """
    model_list = studio.model_list
    changes = {
        LOAD: lambda: bool(model_list.start(model, LOAD)),
        DOWNLOAD: lambda: bool(model_list.start(model, DOWNLOAD)),
        "cancel": lambda: model_list.cancel(studio.catalog[model].key),
        "release": lambda: model_list.release(model),
        "rescan": model_list.rescan,
    }
    if not isinstance(action, str) or action not in changes:
        raise UnknownMethodError("action", action, changes)
    if not isinstance(model, str):
        raise SettingsError(f"model is {str(model)[:80]!r}, and must be a key of the catalog.")
    done = changes[action]()
    return {"action": action, "done": done is None or done, **listed_models(studio)}

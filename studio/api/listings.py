"""Results and models as programs list them: the same for the endpoints and for the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.types import is_text, is_whole
from pipelines.models.catalog import shorten_path
from studio.models.descriptions import (
    describe_device_row,
    describe_embedding,
    describe_lora,
    describe_model,
    describe_upscaler,
)
from studio.models.memory_segments import list_devices
from studio.models.model_list import DOWNLOAD, LOAD
from studio.results.archives import describe_record
from studio.results.options import EVERYTHING, KINDS, ListOptions
from studio.results.search import find, get_existing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from studio.backend import Studio
    from studio.results.store import Record
    from studio.results.visible import VisibleResults

__all__ = ["MOST", "change_models", "change_results", "find_results", "list_models", "list_results"]

MOST = 1000
"""Results in one answer."""


def find_results(
    visible: VisibleResults,
    search: Any = "",
    kind: Any = "",
    limit: Any = 20,
    before: Any = "",
    options: ListOptions = EVERYTHING,
) -> tuple[Sequence[Record], bool]:
    """Find the first results of a search, and whether there are more.

    Args:
        visible: the results as whoever asks sees them.
        search: words of the prompt.
        kind: only these, "" for all.
        limit: 1 to 1000.
        before: id of the last result of the page before.
        options: what else narrows the list, and its order.

    Raises:
        SettingsError: a value of the wrong type, a kind that there is not, or a limit outside its range.
        StoreError: there is no result `before`.
    """
    for name, value in (("search", search), ("kind", kind), ("before", before)):
        if not is_text(value):
            raise SettingsError(f"{name} is {str(value)[:80]!r}, and must be text.")
    if not is_whole(limit) or not 1 <= limit <= MOST:
        raise SettingsError(f"limit is {str(limit)[:80]!r}, and must be a whole number from 1 to {MOST}.")
    if kind and kind not in KINDS:
        kinds = {**KINDS, **visible.count_kinds()}  # of another version, or of a program that writes its own
        if kind not in kinds:
            raise UnknownMethodError("kind", kind, kinds)
    if before:
        visible.get(before)
    return find(visible, search[:2000], kind, int(limit), before=before, options=options)


def list_results(
    visible: VisibleResults,
    search: object = "",
    kind: object = "",
    limit: object = 20,
    before: object = "",
    options: ListOptions = EVERYTHING,
) -> dict[str, Any]:
    """`find_results` as plain values, with how many there are of each kind and model."""
    records, has_more = find_results(visible, search, kind, limit, before, options)
    return {
        "results": [describe_record(record) for record in records],
        "more": has_more,
        "kinds": dict(visible.count_kinds()),
        "models": dict(visible.count_models()),
    }


def list_models(studio: Studio) -> dict[str, Any]:
    """Return the catalog, the LoRAs, embeddings and upscalers, and what is in memory, as plain values."""
    model_list = studio.model_list
    devices = [dict(describe_device_row(row)) for row in list_devices(studio.loaders)]
    rows = [
        dict(describe_model(entry, model_list.is_here(entry), studio.is_loaded(entry.key))) for entry in studio.models()
    ]
    return {
        "on_their_way": model_list.list_transfers(),
        "models": rows,
        "loras": [dict(describe_lora(lora)) for lora in model_list.loras()],
        "embeddings": [dict(describe_embedding(embedding)) for embedding in model_list.embeddings()],
        "upscalers": [dict(describe_upscaler(upscaler)) for upscaler in model_list.upscalers()],
        "folder": shorten_path(studio.catalog.folder),
        "memory": {name: devices[0][name] for name in ("limit_bytes", "used_bytes", "held")},
        "devices": devices,
    }


ACTIONS = ("delete", "restore", "remove", "empty", "star", "unstar")


def change_results(visible: VisibleResults, action: object, ids: object) -> dict[str, Any]:
    """Delete results, which `restore` takes back as long as they lie in the trash, or mark favorites, as the page does.

    Args:
        visible: the results as whoever asks sees them.
        action: "delete" or "restore"; "remove" takes deleted results away for good, and "empty" all of them;
            "star" or "unstar".
        ids: of results; nothing else of them is looked at, no name and no path. Empty for "empty".

    Returns:
        The ids that were changed: those that already were as wished are left out, and so are those that exist no more.
        For "remove" and "empty" also the bytes that this freed.

    Raises:
        SettingsError: another action, or no such result.
        StoreError: a file cannot be moved, or belongs to somebody else.
    """
    changes = {
        "delete": visible.delete,
        "restore": visible.restore,
        "star": visible.star,
        "unstar": visible.unstar,
    }
    if not isinstance(action, str) or action not in ACTIONS:
        raise UnknownMethodError("action", action, ACTIONS)
    if action == "empty":
        if ids:
            raise SettingsError("The action empty takes no ids: it empties the whole trash. Use remove for some of it.")
        freed = visible.empty_trash()
        return {"action": action, "changed": [], "removed": freed.results, "freed_bytes": freed.bytes}
    ids_to_change = [record.id for record in get_existing(visible, ids) if _needs_change(record, action)]
    if action == "remove":
        freed_bytes = sum(visible.remove(one).bytes for one in ids_to_change)
        return {"action": action, "changed": ids_to_change, "removed": len(ids_to_change), "freed_bytes": freed_bytes}
    for one in ids_to_change:
        changes[action](one)
    return {"action": action, "changed": ids_to_change}


def _needs_change(record: Record, action: str) -> bool:
    """Say whether a result is not yet as an action would leave it."""
    if action in ("star", "unstar"):
        return record.favorite != (action == "star")
    return (record.trashed is None) == (action == "delete")


def change_models(studio: Studio, action: Any, model: Any = "") -> dict[str, Any]:
    """Do what a card's button on the Models tab does; loads and downloads go on behind the answer, as there.

    Args:
        studio: catalog and loader.
        action: "load", "download", "cancel", "release" or "rescan".
        model: key of the catalog; no path and no address. Empty for "rescan".

    Returns:
        Whether something was done, and `list_models` after it.

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
    outcome = changes[action]()
    return {"action": action, "done": outcome is None or outcome, **list_models(studio)}

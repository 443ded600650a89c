"""What the store knows of a result: as a record, as a row of the index, and as JSON in or beside its file."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from studio.infotext.embed import OUR_CHUNK, clean, texts
from studio.infotext.fields import object_of

__all__ = ["ABOUT", "NAME", "Reconciled", "Record", "about", "facts_in", "facts_of", "ours"]

ABOUT = ".json"
"""Ends the name of the file beside a clip or table that says what it is; a picture has that inside."""

NAME = re.compile(r"(\d{8}-\d{6}-[0-9a-f]{12})(\.[a-z0-9]{1,8})\Z")
"""A result's file name: its id and a suffix."""

EMBEDDED = 60_000
"""Characters of JSON that a picture carries at most; longer metadata stays whole in the index only."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One result.

    Attributes:
        id: made by the server, e.g. "20261121-101500-3f9c2a7be1d4".
        kind: what made it, e.g. "text_to_image".
        path: the file, resolved, inside the store's folder.
        created: seconds since 1970.
        job: id of the job; empty for none.
        index: its place in the job's batch, from 0.
        width, height: pixels; 0 for what is no picture.
        size: bytes of the file.
        prompt: for the search; empty where there is none.
        parameters: the A1111-style text.
        metadata: our whole JSON; "request" holds `Request.to_json()`.
        trashed: when it was deleted, seconds since 1970; None while it is not.
    """

    id: str
    kind: str
    path: Path
    created: float
    job: str
    index: int
    width: int
    height: int
    size: int
    prompt: str
    parameters: str
    metadata: Mapping[str, Any]
    trashed: float | None = None


@dataclasses.dataclass(frozen=True)
class Reconciled:
    """What `Store.reconcile` did: rows added, rows removed, unfinished files removed."""

    adopted: int
    dropped: int
    leftovers: int


def about(path: Path) -> Path:
    """Where the JSON beside a result stands."""
    return path.with_name(path.name + ABOUT)


def facts_of(metadata: Mapping[str, Any], parameters: str, kind: str, job: str, index: int) -> dict[str, Any]:
    """A new result's row, all but its name and sizes: column to plain value, with an id of its own."""
    created = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(created))
    request = metadata.get("request")
    prompt = request.get("prompt", "") if isinstance(request, Mapping) else ""
    return {
        "id": f"{stamp}-{secrets.token_hex(6)}",
        "kind": clean(kind),
        "created": created,
        "job": clean(job),
        "position": index,
        "width": 0,
        "height": 0,
        "prompt": clean(str(prompt)),
        "parameters": clean(parameters),
        "metadata": json.dumps(metadata, default=str),
    }


def ours(facts: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """The JSON that a picture carries, from its row: never longer than a later reading allows."""
    head = {
        "stepwise": 1,
        **{name: facts[name] for name in ("id", "kind", "created", "job")},
        "index": facts["position"],
    }
    whole = json.dumps(head | {"metadata": metadata}, default=str, ensure_ascii=False)
    if len(whole) <= EMBEDDED:
        return whole
    return json.dumps(head | {"metadata": {"request": metadata.get("request")}}, default=str, ensure_ascii=False)


def facts_in(path: Path, name: str) -> dict[str, Any] | None:
    """The row of a file that has none, from the JSON in or beside it; None when it is not whole or not ours.

    Args:
        path: a file with a name of the form `NAME`.
        name: what the row is to call it.
    """
    try:
        beside = about(path)
        whole = json.loads(beside.read_bytes()) if beside.exists() else _embedded(path)
        if not isinstance(whole, dict) or whole.get("id") != NAME.match(path.name)[1]:
            return None
        size = path.stat().st_size
        if whole.get("size", size) != size:
            return None
        return _row(whole) | {"name": name, "size": size}
    except Exception:  # broken in whatever way: then it is not a whole result of ours
        return None


def _embedded(path: Path) -> dict[str, Any] | None:
    with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
        found = texts(picture)
        picture.load()  # whole, or it raises
        whole = object_of(found.get(OUR_CHUNK, ""))
        if whole is None:
            return None
        return whole | {
            "position": whole.get("index"),
            "width": picture.width,
            "height": picture.height,
            "parameters": found.get("parameters", ""),
        }


def _row(whole: Mapping[str, Any]) -> dict[str, Any]:
    metadata = whole["metadata"]
    if isinstance(metadata, str):  # beside a clip stands the row as it was
        metadata = json.loads(metadata)
    facts = facts_of(
        metadata, str(whole.get("parameters", "")), str(whole["kind"])[:80], str(whole.get("job", ""))[:80], 0
    )
    created = float(whole["created"])
    if not math.isfinite(created):
        raise ValueError("no time")
    numbers = {key: int(whole.get(key) or 0) for key in ("position", "width", "height")}
    return facts | {"id": whole["id"], "created": created, **numbers}

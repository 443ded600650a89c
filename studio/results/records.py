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
from typing import Any, NamedTuple

from PIL import Image

from studio.infotext.embed import OUR_CHUNK, clean, read_all_texts
from studio.infotext.fields import parse_object
from studio.results.files import NAME

__all__ = [
    "ABOUT",
    "NAME",
    "Freed",
    "Reconciled",
    "Record",
    "Usage",
    "build_facts",
    "format_embedded_json",
    "get_description_path",
    "read_facts",
]

ABOUT = ".json"
"""Ends the name of the file beside a clip or table that says what it is; a picture has that inside."""

_OWNER = re.compile(r"[0-9a-f]{16}\Z")

EMBEDDED = 60_000
"""Characters of JSON that a picture carries at most; longer metadata stays whole in the index only."""


@dataclasses.dataclass(frozen=True)
class Record:
    """Describes one result.

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
        owner: pseudonym of whoever made it; "" for nobody in particular.
        favorite: whether its owner has marked it; the index alone knows.
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
    owner: str = ""
    favorite: bool = False


@dataclasses.dataclass(frozen=True)
class Reconciled:
    """Counts what `Store.reconcile` did: rows added, rows removed, unfinished files removed."""

    adopted: int
    removed: int
    leftovers: int


class Freed(NamedTuple):
    """Counts what was removed for good: how many results, and the bytes of their files."""

    results: int
    bytes: int


class Usage(NamedTuple):
    """Counts bytes of the files that the index knows: of the results, and of those in the trash."""

    results: int
    trash: int


def get_description_path(path: Path) -> Path:
    """Return where the JSON beside a result stands."""
    return path.with_name(path.name + ABOUT)


def build_facts(
    metadata: Mapping[str, object], parameters: str, kind: str, job: str, index: int, owner: str = ""
) -> dict[str, Any]:
    """Build a new result's row, all but its name and sizes: column to plain value, with an id of its own."""
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
        "owner": owner,
    }


def format_embedded_json(facts: Mapping[str, object], metadata: Mapping[str, object]) -> str:
    """Write the JSON that a picture carries, from its row: never longer than a later reading allows."""
    head = {
        "stepwise": 1,
        **{name: facts[name] for name in ("id", "kind", "created", "job")},
        "index": facts["position"],
        **({"owner": facts["owner"]} if facts["owner"] else {}),
    }
    document = json.dumps(head | {"metadata": metadata}, default=str, ensure_ascii=False)
    if len(document) <= EMBEDDED:
        return document
    return json.dumps(head | {"metadata": {"request": metadata.get("request")}}, default=str, ensure_ascii=False)


def read_facts(path: Path, name: str) -> dict[str, Any] | None:
    """Read the row of a file that has none, from the JSON in or beside it; None when it is not whole or not ours.

    Args:
        path: a file with a name of the form `NAME`.
        name: what the row is to call it.
    """
    try:
        beside = get_description_path(path)
        document = json.loads(beside.read_bytes()) if beside.exists() else _read_embedded(path)
        match = NAME.match(path.name)
        if not isinstance(document, dict) or match is None or document.get("id") != match[1]:
            return None
        size = path.stat().st_size
        if document.get("size", size) != size:
            return None
        return _build_row(document) | {"name": name, "size": size}
    except Exception:  # broken in whatever way: then it is not a whole result of ours
        return None


def _read_embedded(path: Path) -> dict[str, Any] | None:
    with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
        texts = read_all_texts(picture)
        picture.load()  # whole, or it raises
        document = parse_object(texts.get(OUR_CHUNK, ""))
        if document is None:
            return None
        return document | {
            "position": document.get("index"),
            "width": picture.width,
            "height": picture.height,
            "parameters": texts.get("parameters", ""),
        }


def _build_row(document: Mapping[str, Any]) -> dict[str, Any]:
    metadata = document["metadata"]
    if isinstance(metadata, str):  # beside a clip stands the row as it was
        metadata = json.loads(metadata)
    kind, job, owner = str(document["kind"])[:80], str(document.get("job", ""))[:80], str(document.get("owner", ""))
    owner = owner if _OWNER.match(owner) else ""
    facts = build_facts(metadata, str(document.get("parameters", "")), kind, job, 0, owner)
    created = float(document["created"])
    if not math.isfinite(created):
        raise ValueError("no time")
    numbers = {key: int(document.get(key) or 0) for key in ("position", "width", "height")}
    return facts | {"id": document["id"], "created": created, **numbers}

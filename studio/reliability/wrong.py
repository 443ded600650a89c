"""What can be wrong with a request: odd values for any of its fields, values past a cap, bodies that are none."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["BODIES", "ODD", "PAST_A_CAP", "TYPES", "Wrong", "build_wrong", "exceed_a_cap", "walk_paths"]

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1.5,
    1e308,
    -(2**70),
    10**30,
    10**400,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x" * 20_000,
    "\0",
    "\ud800",
    "../../etc/passwd",
    "/etc/passwd",
    "http://127.0.0.1:9/x.safetensors",
    "file:///etc/passwd",
    "<script>alert(1)</script>",
    "'; DROP TABLE result; --",
    "{{7*7}}",
    "%s%n",
    "1-9999",
    "1-2:" + "9" * 400,
    "AAAA",
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"key": None},
    {"key": {}},
    {"key": "ddim", "eta": "x"},
    {"key": "ddim", "eta": 10**9},
    {"__class__": "x"},
    {"path": "/etc/passwd"},
    list(range(2000)),
    {"a": {"b": {"c": {"d": []}}}},
)
_NAMES = ("nonsense", "", "__proto__", "\0", "base", "prompt", "eta", "key")
PAST_A_CAP: Mapping[str, tuple[Any, ...]] = {
    "prompt": ("x " * 2001,),
    "negative_prompt": ("x " * 2001,),
    "num_inference_steps": (201, 10**9, 0, -5),
    "width": (8, 4096, 10**6),
    "height": (8, 4096, 10**6),
    "batch_size": (17, 0, 10**6),
    "seed": (-2, 2**64),
    "variation_seed": (-2, 2**64),
    "variation_strength": (2, -0.1),
    "guidance": ({"key": "cfg", "guidance_scale": 10**6},),
    "loras": ([{"name": "x", "weight": 1}] * 9, [{"name": "x", "weight": 5}]),
    "factor": (9, 0.5, 10**6),
    "cells": ([{}] * 9, [{}], [{"num_inference_steps": 201}] * 2),
    "x": ({"field": "seed", "values": "1-37"},),
    "reference_steps": (1, 1000, 10**6),
    "evaluations": ([401], "1-100", [0]),
    "frames": (0, 258, 10**4),
    "fps": (0, 61, 10**6),
    "keys": ([{"prompt": "a fox"}] * 12, [{"seed": -2}]),
    "variants": (["int8"] * 8, []),
    "fitted": (1, 1025),
    "teacher_steps": (9, 1001),
    "limit": (0, 1001, -1),
}
"""Field to values that no request may have."""

_TOGETHER: tuple[Mapping[str, Any], ...] = (
    {"width": 2048, "height": 2048, "batch_size": 16},
    {"width": 2048, "height": 2048, "frames": 257},
)
"""Values that are right one by one and past a cap together."""

BODIES: tuple[bytes, ...] = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"0",
    b'"x"',
    b'{"data": null}',
    b'{"data": {}}',
    b'{"data": 7}',
    b'{"data": []}',
    b'{"dat": []}',
    b'{"data": [[[[[[[[[[',
    b"\xff\xfe\x00",
    b'{"data": [NaN]}',
    b'{"data": ["a", {"seed": 1e999}]}',
    b"[" * 5000,
    b'{"data":' + b"[" * 3000 + b"]" * 3000 + b"}",
    b'{"data": ["x"], "session_hash": 7}',
    b'{"data": ["x"], "event_data": "x"}',
    b'{"data": ["x"], "fn_index": -1}',
    b'{"values": null}',
    b'{"values": [NaN]}',
    b'{"values": [1e999], "owner": []}',
)
TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "")

Path = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Wrong:
    """Describes a request that was right before.

    Attributes:
        values: of the request.
        fields: the innermost names of what was changed.
        beyond: whether it asks for more than a cap allows, so that it must be refused.
    """

    values: Mapping[str, Any]
    fields: frozenset[str]
    beyond: bool = False


def walk_paths(values: object, at: Path = ()) -> Iterator[Path]:
    """Yield the way to every value within plain values, those that hold others included."""
    inside = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inside:
        yield (*at, key)
        yield from walk_paths(value, (*at, key))


def build_wrong(draw: random.Random, right: Mapping[str, object], fields_known: frozenset[str], turn: int) -> Wrong:
    """Build the request with one to three values exchanged, taken away or added.

    Args:
        draw: of what and of where.
        right: the request.
        fields_known: fields that may be added to its objects; empty where nothing can be added.
        turn: which value is the first to go, so that in as many turns as there are values each is reached.
    """
    values, fields = copy.deepcopy(dict(right)), set()
    for number in range(draw.choice((1, 1, 1, 2, 3))):
        places = [*walk_paths(values), *_list_missing(values, fields_known)] or [("nonsense",)]
        place = draw.choice(places) if number else places[turn % len(places)]
        if fields_known and number and draw.random() < 0.3:
            inside = [place for place in walk_paths(values) if isinstance(_at(values, place), dict)] or [()]
            place = (*draw.choice(inside), draw.choice(_NAMES))
        # A copy, since the next change may be made within it.
        _put(values, place, copy.deepcopy(draw.choice(ODD)), is_removed=draw.random() < 0.05)
        fields.add(next((key for key in reversed(place) if isinstance(key, str)), ""))
    return Wrong(values, frozenset(fields))


def _list_missing(values: Mapping[str, object], known_fields: frozenset[str]) -> list[Path]:
    """Where the fields would stand that the request may have and has not."""
    home: Path = ("settings",) if isinstance(values.get("settings"), dict) else ()
    return (
        [(*home, name) for name in sorted(known_fields - {place[-1] for place in walk_paths(values)})] if home else []
    )


def exceed_a_cap(draw: random.Random, right: Mapping[str, object], ignored: frozenset[str]) -> Wrong | None:
    """Build the request with one thing in it more than a cap allows; None where it has nothing with a cap.

    Args:
        draw: of which.
        right: the request.
        ignored: fields that the task sets itself, whatever is asked for.
    """
    places = {place[-1]: place for place in reversed([*walk_paths(right)]) if not {"cells", "keys"} & {*place[:-1]}}
    capped = [name for name in PAST_A_CAP if name in places and name not in ignored]
    together = [one for one in _TOGETHER if one.keys() <= places.keys() - ignored]
    if not capped:
        return None
    name = draw.choice(capped)
    changes = draw.choice(together) if together and draw.random() < 0.2 else {name: draw.choice(PAST_A_CAP[name])}
    values = copy.deepcopy(dict(right))
    for name, value in changes.items():
        _put(values, places[name], value)
    return Wrong(values, frozenset(changes), beyond=True)


def _at(values: Any, place: Path) -> Any:
    for key in place:
        values = values[key]
    return values


def _put(values: object, place: Path, value: object, is_removed: bool = False) -> None:
    holder = _at(values, place[:-1])
    if is_removed:
        holder.pop(place[-1], None) if isinstance(holder, dict) else holder.pop(place[-1])
    else:
        holder[place[-1]] = value

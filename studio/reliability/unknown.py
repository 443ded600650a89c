"""Requests to what there is none of: endpoints, functions, components, events, sessions, jobs and results.

Each is answered with 404 or 422 and leaves no traceback, in the answer and in the log.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from studio.reliability.server import Server

__all__ = ["REFUSED", "Probe", "draw_unknown", "run"]

REFUSED = (404, 422)

_NAMES = (
    "nothing",
    "generate2",
    "Generate",
    "gen erate",
    "generate%2f..",
    "..%2fgenerate",
    "predict",
    "__class__",
    "v2",
    "%00",
    "%F0%9F%A6%8A",
    "x" * 300,
)
_IDS: tuple[Any, ...] = (-1, 10**6, 2**31, 2**63, 10**30, 1.5, "0", "", None, True, [], {}, [0], {"a": 0})
_TAGS = ("none", "0" * 32, "a" * 300, "%00", "%2e%2e")
_BODIES: tuple[Any, ...] = (
    {},
    {"data": []},
    {"data": ["a fox", {}]},
    {"data": None},
    {"data": {}},
    [],
    None,
    "a fox",
    7,
)


class Probe(NamedTuple):
    """A request to what there is none of: method, path and JSON (None for none)."""

    method: str
    path: str
    content: Any = None


def _call(draw: random.Random) -> Probe:
    form = draw.choice(("call", "call/v2", "run", "api"))
    return Probe("POST", f"/gradio_api/{form}/{draw.choice(_NAMES[:-3])}", draw.choice(_BODIES))


def _call_event(draw: random.Random) -> Probe:
    return Probe("GET", f"/gradio_api/call/{draw.choice(('generate', 'cancel'))}/{draw.choice(_TAGS)}")


def _function(draw: random.Random) -> Probe:
    content = {"data": draw.choice(([], ["a fox"], None)), "fn_index": draw.choice(_IDS), "session_hash": "none"}
    return Probe("POST", draw.choice(("/gradio_api/queue/join", "/gradio_api/run/predict")), content)


def _component(draw: random.Random) -> Probe:
    content = {
        "component_id": draw.choice(_IDS),
        "fn_name": draw.choice(("ls", "__init__", "postprocess", "")),
        "data": draw.choice(([], {}, None, "a")),
        "session_hash": "none",
    }
    return Probe("POST", "/gradio_api/component_server", content)


def _session(draw: random.Random) -> Probe:
    return Probe("GET", f"/gradio_api/queue/data?session_hash={draw.choice(_TAGS)}")


def _job(draw: random.Random) -> Probe:
    tab = draw.choice(("text_to_image", "compare", "edit"))
    method, action = draw.choice((("GET", "events"), ("POST", "stop")))
    return Probe(method, f"/stepwise/{tab}/jobs/{draw.choice(_TAGS)}/{action}")


def _tab(draw: random.Random) -> Probe:
    return Probe("POST", f"/stepwise/{draw.choice(_NAMES)}/run", draw.choice(_BODIES))


def _result(draw: random.Random) -> Probe:
    return Probe("GET", f"/stepwise/results/{draw.choice(_TAGS)}")


def _address(draw: random.Random) -> Probe:
    path = draw.choice(("/gradio_api/nothing", "/nothing", "/stepwise/nothing", "/stepwise/"))
    return Probe("GET", path)


_KINDS: Mapping[str, Callable[[random.Random], Probe]] = {
    "endpoint": _call,
    "event": _call_event,
    "function": _function,
    "component": _component,
    "session": _session,
    "job": _job,
    "tab": _tab,
    "result": _result,
    "address": _address,
}


def draw_unknown(count: int, seed: int = 0) -> Iterator[tuple[str, Probe]]:
    """So many requests of each kind, the same ones for the same seed, with the kind's name."""
    for kind, build in _KINDS.items():
        draw = random.Random(f"{kind} {seed}")
        for _ in range(count):
            yield kind, build(draw)


def run(server: Server, count: int = 60, leaks: tuple[str, ...] = ()) -> dict[str, Any]:
    """The figure: how many requests to what there is none of were answered with 404 or 422.

    Args:
        server: without a rate limit, or it only proves that.
        count: of requests of each kind.
        leaks: words that no answer may hold.

    Returns:
        `unknown`, how many were asked, `unknown_refused` of them, and `unknown_examples` of the others.
    """
    import httpx

    examples: list[str] = []
    refused = asked = 0
    for kind, probe in draw_unknown(count):
        asked += 1
        content = {} if probe.content is None else {"json": probe.content}
        try:
            answer = server.web.request(probe.method, probe.path, **content)
            status, text = answer.status_code, answer.text
        except httpx.HTTPError as error:
            status, text = 599, repr(error)
        if status in REFUSED and not any(leak in text for leak in leaks):
            refused += 1
        elif len(examples) < 40:
            examples.append(f"{kind} {probe.method} {probe.path[:80]} {str(probe.content)[:80]}: {status} {text[:120]}")
    return {"unknown": asked, "unknown_refused": refused, "unknown_examples": examples}

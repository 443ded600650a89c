"""Malformed requests: none may show a traceback, break the server, or get past a cap."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from studio.reliability.jobs import source_picture
from studio.reliability.server import Answer, Server

__all__ = ["LEAKS", "RUN_BUTTONS", "judged", "live_requests", "malformed", "run"]

LEAKS = ("Traceback (most recent call last)", 'File "/', "site-packages", "NoneType", "object at 0x")
"""What only a program's inside looks like."""

_LONGEST = 2.0
"""Seconds after which a job that was right after all is stopped."""

RUN_BUTTONS = ("text_to_image", "compare", "edit", "video", "quantize", "nowhere")
"""Tabs with a route of their own behind the run button, and one that there is not."""

_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1.5,
    1e308,
    -(2**70),
    10**30,
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
_FIELDS = (
    "num_inference_steps",
    "width",
    "height",
    "seed",
    "variation_seed",
    "variation_strength",
    "batch_size",
    "sampler",
    "schedule",
    "guidance",
    "model",
    "loras",
    "prompt",
    "negative_prompt",
    "cells",
    "x",
    "y",
    "equal",
    "reference_steps",
    "reference",
    "base",
    "edit",
    "inversion",
    "mask",
    "fit",
    "source_prompt",
    "picture",
    "nonsense",
    "",
    "__proto__",
)
_PAST_A_CAP: tuple[Mapping[str, Any], ...] = (
    {"num_inference_steps": 201},
    {"num_inference_steps": 10**9},
    {"width": 4096, "height": 4096},
    {"batch_size": 17},
    {"width": 2048, "height": 2048, "batch_size": 16},
    {"num_inference_steps": -5},
    {"width": 8},
    {"variation_strength": 2},
    {"seed": -1},
    {"seed": 2**64},
    {"guidance": {"key": "cfg", "guidance_scale": 10**6}},
    {"loras": [{"name": "x", "weight": 1}] * 9},
)
_BODIES: tuple[bytes, ...] = (
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
)
_TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "")


def malformed(endpoint: str, arguments: int, count: int, seed: int = 0) -> Iterator[tuple[str, Any]]:
    """Requests that are wrong in some way: ("body", bytes and their type), or ("data", arguments).

    Args:
        endpoint: name, which is part of the seed.
        arguments: how many it takes.
        count: of requests.
        seed: of the draw.
    """
    draw, picture = random.Random(f"{endpoint} {seed}"), source_picture(16)
    for index in range(count):
        kind = index % 5
        if kind == 0:
            yield "body", (draw.choice(_BODIES), draw.choice(_TYPES))
        elif kind == 1:
            yield "data", [draw.choice(_ODD) for _ in range(draw.choice((arguments, arguments, 0, arguments + 1, 9)))]
        else:
            yield "data", _settings(draw, endpoint, arguments, kind, picture)


def _settings(draw: random.Random, endpoint: str, arguments: int, kind: int, picture: str) -> list[Any]:
    """Arguments that look right but for one thing: a field of the wrong kind, or one past its cap."""
    if kind == 4:
        wrong: dict[str, Any] = dict(draw.choice(_PAST_A_CAP))
    else:
        wrong = {draw.choice(_FIELDS): draw.choice(_ODD) for _ in range(draw.choice((1, 1, 2)))}
    settings = {"num_inference_steps": 1, **wrong}
    if draw.random() < 0.5:
        settings = {"base": settings, **wrong}
    if endpoint == "compare":  # what is right after all costs little
        settings.setdefault("reference", False)
    first = draw.choice(("a fox", "a fox", "", draw.choice(_ODD)))
    middle = [draw.choice((picture, picture, "", "AAAA", draw.choice(_ODD))) for _ in range(max(0, arguments - 2))]
    return [first, *middle, settings][:arguments] if arguments > 1 else [draw.choice(_ODD)][:arguments]


def live_requests(tab: str, count: int, seed: int = 0) -> Iterator[bytes]:
    """Bodies for the route behind a tab's run button that the page would never send."""
    draw = random.Random(f"{tab} {seed}")
    for index in range(count):
        if index % 3 == 0:
            yield draw.choice(_BODIES)
            continue
        values = [draw.choice(_ODD) for _ in range(draw.choice((0, 1, 10, 40, 80)))]
        yield json.dumps(
            {"values": values if index % 3 == 1 else draw.choice(_ODD), "owner": draw.choice(_ODD)}
        ).encode()


def run(server: Server, count: int = 500) -> dict[str, Any]:
    """The figure, over every public endpoint that the server lists, and the routes behind the run buttons.

    Args:
        server: without a rate limit, or it only proves that.
        count: of requests to each endpoint.

    Returns:
        How many were answered how, and what must not be: `server_errors`, `tracebacks`, `past_a_cap`.
    """
    before = server.log.count("Traceback")
    kinds: Counter[str] = Counter()
    examples: list[str] = []
    endpoints = server.endpoints()
    asked = itertools.chain(
        (
            (name, content, _sent(server, name, form, content))
            for name, arguments in sorted(endpoints.items())
            for form, content in malformed(name, arguments, count)
        ),
        ((f"{tab}/run", body, _run(server, tab, body)) for tab in RUN_BUTTONS for body in live_requests(tab, count)),
    )
    for where, content, answer in asked:
        kind = judged(answer)
        kinds[kind] += 1
        if kind in ("server_error", "traceback", "past_a_cap") and len(examples) < 20:
            examples.append(f"{where} {str(content)[:160]}: {answer.status} {str(answer.value)[:160]}")
    return {
        "endpoints": len(endpoints) + len(RUN_BUTTONS),
        "requests": sum(kinds.values()),
        "refused": kinds["refused"],
        "answered": kinds["answered"],
        "server_errors": kinds["server_error"],
        "past_a_cap": kinds["past_a_cap"],
        "tracebacks_shown": kinds["traceback"],
        "tracebacks_logged": server.log.count("Traceback") - before,
        "examples": examples,
    }


def _sent(server: Server, endpoint: str, form: str, content: Any) -> Answer:
    path = f"/gradio_api/call/{endpoint}"
    if form == "body":
        body, kind = content
    else:
        body, kind = json.dumps({"data": content}).encode(), "application/json"
    import httpx

    headers = {"content-type": kind} if kind else {}
    try:
        return server.finish(endpoint, server.web.post(path, content=body, headers=headers), _LONGEST)
    except httpx.HTTPError as error:  # a connection that the server breaks off counts as a failure of its own
        return Answer(599, "", repr(error))


def _run(server: Server, tab: str, body: bytes) -> Answer:
    answer = server.web.post(f"/stepwise/{tab}/run", content=body, headers={"content-type": "application/json"})
    return Answer(answer.status_code, "", answer.text)


def judged(answer: Answer) -> str:
    told = answer.value if isinstance(answer.value, str) else json.dumps(answer.value, ensure_ascii=False)
    if answer.status >= 500:
        return "server_error"
    if any(leak in told for leak in LEAKS):
        return "traceback"
    if answer.refused:
        return "refused"
    return "past_a_cap" if _past(answer.value) else "answered"


def _past(value: Any) -> bool:
    """Whether a finished job did more than the caps allow."""
    from pipelines.limits import Limits

    result = value[0] if isinstance(value, list) and value else value
    if not isinstance(result, dict):
        return False
    limits = Limits()
    listed = len(result.get("results", ())) > 1000
    return (
        listed
        or len(result.get("images", ())) > limits.max_batch + limits.max_cells
        or result.get("num_steps", 0) > (limits.max_steps * (limits.max_cells + 1))
    )

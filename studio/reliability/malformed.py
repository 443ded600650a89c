"""Malformed requests: none may show a traceback, break the server, or get past a cap.

Each begins as a right request, of an endpoint or of a run button's form as the page sends it, and has one or a few of
its values exchanged; one in five is a body that is none. How many were read as far as their values is counted too:
requests that all end at the first door prove nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from studio.reliability import unknown
from studio.reliability.page import PageForm, list_files, press, read_forms, stream_events
from studio.reliability.results import measure_extent
from studio.reliability.server import Answer, Server
from studio.reliability.valid import OVERRULED, build_endpoint_requests, list_fields, shrink_form
from studio.reliability.wrong import BODIES, TYPES, Wrong, build_wrong, exceed_a_cap, walk_paths
from studio.results.store import Store

__all__ = [
    "BROKEN",
    "LEAKS",
    "Malformed",
    "draw_endpoint_malformed",
    "draw_form_malformed",
    "is_read",
    "judge_answer",
    "run",
    "walk_paths",
]

LEAKS = ("Traceback (most recent call last)", 'File "/', "site-packages", "NoneType", "object at 0x")
"""What only a program's inside looks like."""

BROKEN = ("Something broke inside the studio", "The page lost sight of the run")
"""What the studio says of a mistake of its own."""

_UNREAD = (
    "The form could not be read",
    "The values could not be read",
    "not readable JSON",
    "half of a character",
    "Unknown setting",
)
"""What is said of a request as a whole."""

_LONGEST = 1.0
"""Seconds after which a job that was right after all is stopped."""

_ON_THE_PAGE = frozenset({"seed", "guidance", "loras", "x", "cells", "keys", "variation_seed"})
"""Fields that a form has in another shape than a request."""


@dataclasses.dataclass(frozen=True)
class Malformed:
    """Describes one malformed request.

    Attributes:
        where: endpoint, or the page's tab.
        wrong: what is wrong with it; None for a body.
        body, kind: of a body that is none.
    """

    where: str
    wrong: Wrong | None = None
    body: bytes = b""
    kind: str = ""


def draw_endpoint_malformed(endpoint: str, count: int, seed: int = 0) -> Iterator[Malformed]:
    """Draw malformed requests to an endpoint, the same ones for the same seed.

    Raises:
        KeyError: there is no right request for this endpoint yet.
    """
    draw, right, turns = random.Random(f"{endpoint} {seed}"), build_endpoint_requests()[endpoint], itertools.count()
    fields = list_fields(endpoint)
    for index in range(count):
        if index % 5 == 0:
            yield Malformed(endpoint, body=draw.choice(BODIES), kind=draw.choice(TYPES))
            continue
        request = draw.choice(right)
        beyond = exceed_a_cap(draw, request, OVERRULED.get(endpoint, frozenset())) if index % 10 == 1 else None
        yield Malformed(endpoint, beyond or build_wrong(draw, request, fields, next(turns)))


def draw_form_malformed(form: PageForm, count: int, seed: int = 0) -> Iterator[Malformed]:
    """Draw malformed requests of a run button, the same ones for the same page and seed."""
    draw, small, turns = random.Random(f"page {form.tab} {seed}"), shrink_form(form), itertools.count()
    right = dict(zip(small.names, small.values, strict=True))
    as_fields = {_get_field(name): name for name in reversed(small.names)}
    ignored = _ON_THE_PAGE | OVERRULED.get(form.tab, frozenset())
    ignored |= frozenset({"batch_size"}) if form.tab != "text_to_image" else frozenset()
    for index in range(count):
        if index % 5 == 0:
            yield Malformed(form.tab, body=draw.choice(BODIES))
            continue
        beyond = None
        if index % 10 == 1:
            beyond = exceed_a_cap(draw, {field: right[name] for field, name in as_fields.items()}, ignored)
        if beyond:
            beyond = dataclasses.replace(
                beyond, values={**right, **{as_fields[k]: v for k, v in beyond.values.items()}}
            )
        yield Malformed(form.tab, beyond or build_wrong(draw, right, frozenset(), next(turns)))


def _get_field(name: str) -> str:
    """The field of a request that a form's name stands for."""
    words = name.removeprefix("cmp_")
    return "num_inference_steps" if words == "steps" else words


def run(server: Server, count: int = 500) -> dict[str, Any]:
    """Measure the figure, over every public endpoint that the server lists, and every run button of its page.

    Args:
        server: without a rate limit, or it only proves that.
        count: of requests to each; a quarter as many of each kind go to what there is none of.

    Returns:
        How many were answered how, and what must not be: `server_errors`, `tracebacks_shown`, `past_a_cap`; and what
        `unknown.run` returns.
    """
    before = server.log.count("Traceback")
    kinds: Counter[str] = Counter()
    examples: list[str] = []
    endpoints, pressed = server.endpoints(), read_forms(server.web.get("/config").json())
    for request, answer in _send_all(server, endpoints, list(pressed.values()), count):
        kind = judge_answer(answer, request.wrong is not None and request.wrong.beyond)
        kinds[kind] += 1
        kinds["read"] += answer.begun or (kind == "refused" and is_read(answer))
        kinds["jobs"] += answer.begun
        if kind in ("server_error", "traceback", "past_a_cap") and len(examples) < 40:
            examples.append(_describe_answer(request, answer))
    missed = unknown.run(server, max(1, count // 4), LEAKS)
    return {
        **missed,
        "endpoints": len(endpoints),
        "buttons": len(pressed),
        "requests": count * (len(endpoints) + len(pressed)),
        "read": kinds["read"],
        "jobs": kinds["jobs"],
        "refused": kinds["refused"],
        "answered": kinds["answered"],
        "server_errors": kinds["server_error"],
        "past_a_cap": kinds["past_a_cap"],
        "tracebacks_shown": kinds["traceback"],
        "tracebacks_logged": server.log.count("Traceback") - before,
        "examples": [*examples, *missed["unknown_examples"]],
    }


def _send_all(
    server: Server, endpoints: Mapping[str, int], page_forms: Sequence[PageForm], count: int
) -> Iterator[tuple[Malformed, Answer]]:
    import httpx

    for name in sorted(endpoints):
        for request in draw_endpoint_malformed(name, count):
            try:
                yield request, _send_call(server, request)
            except httpx.HTTPError as error:  # a connection that the server breaks off counts as a failure of its own
                yield request, Answer(599, "", repr(error))
    for form in page_forms:
        for request in draw_form_malformed(form, count):
            yield request, _press_button(server, form, request)


def _send_call(server: Server, request: Malformed) -> Answer:
    path, body, kind = f"/gradio_api/call/{request.where}", request.body, request.kind
    if request.wrong is not None:
        body, kind = json.dumps({"data": list(request.wrong.values.values())}).encode(), "application/json"
    headers = {"content-type": kind} if kind else {}
    return server.finish(request.where, server.web.post(path, content=body, headers=headers), _LONGEST)


def _press_button(server: Server, form: PageForm, request: Malformed) -> Answer:
    if request.wrong is None:
        headers = {"content-type": "application/json"}
        answer = server.web.post(f"/stepwise/{form.tab}/run", content=request.body, headers=headers)
    else:
        answer = press(server.web, form, list(request.wrong.values.values()))
    if answer.status_code != 200 or "session" not in answer.json():
        return Answer(answer.status_code, "", answer.text)
    return _follow_job(server, form.tab, answer.json()["session"]["job"])


def _follow_job(server: Server, tab: str, job: str) -> Answer:
    """What the page was told of a job at its end, as an endpoint would say it, with where the files named to it lie."""
    files: set[str] = set()
    until, was_stopped = time.monotonic() + _LONGEST, False
    for event in stream_events(server.web, tab, job):
        files |= list_files(event)
        if not was_stopped and time.monotonic() > until:
            was_stopped = server.web.post(f"/stepwise/{tab}/jobs/{job}/stop").status_code == 200
    failed = event["status"] in ("failed", "lost")
    value = (
        event["notice"]
        if failed
        else [{"status": event["status"], "images": [{"path": str(_find_stored(server, one))} for one in files]}]
    )
    return Answer(200, "error" if failed else "complete", value, begun=True)


def _find_stored(server: Server, address: str) -> Path:
    """The file behind `stepwise/results/{id}`, which is all that a page is told."""
    return Store(server.outputs).get(address.rsplit("/", 1)[1]).path


def is_read(answer: Answer) -> bool:
    """Say whether a refusal is about a value, and not about the request as a whole."""
    if not answer.value or (answer.event == "" and answer.status != 422):
        return False
    return not any(sentence in str(answer.value) for sentence in _UNREAD)


def _describe_answer(request: Malformed, answer: Answer) -> str:
    subject = request.body[:80] if request.wrong is None else ", ".join(sorted(request.wrong.fields))
    values = (
        "" if request.wrong is None else str({k: v for k, v in request.wrong.values.items() if k != "picture"})[:200]
    )
    return f"{request.where} {subject!r} {values}: {answer.status} {answer.event} {str(answer.value)[:200]}"


def judge_answer(answer: Answer, beyond: bool = False) -> str:
    """Judge an answer as "server_error", "traceback", "past_a_cap", "refused" or "answered".

    Args:
        answer: to a request.
        beyond: whether the request asked for more than a cap allows.
    """
    text = answer.value if isinstance(answer.value, str) else json.dumps(answer.value, ensure_ascii=False)
    if answer.status >= 500 or any(sentence in text for sentence in BROKEN):
        return "server_error"
    if any(leak in text for leak in LEAKS):
        return "traceback"
    if beyond and answer.begun:
        return "past_a_cap"
    if answer.refused:
        return "refused"
    return "past_a_cap" if _is_past_a_cap(answer.value) else "answered"


def _is_past_a_cap(value: object) -> bool:
    """Whether a finished job did more than the caps allow."""
    from pipelines.requests.limits import Limits

    result = value[0] if isinstance(value, list) and value else value
    if not isinstance(result, dict):
        return False
    limits = Limits()
    images = result.get("images", ())
    return (
        len(result.get("results", ())) > 1000
        or len(images) > limits.max_batch + limits.max_cells
        or result.get("num_steps", 0) > (limits.max_steps * (limits.max_cells + 1))
        or any(_is_too_large(Path(image["path"]), limits) for image in images if image.get("path"))
    )


def _is_too_large(path: Path, limits: Any) -> bool:
    size = measure_extent(path)
    if size is None:
        return False
    pixels = size.width * size.height
    return (
        max(size.width, size.height) > limits.max_side
        or size.frames > limits.max_frames
        or pixels > limits.max_pixels
        or pixels * size.frames > limits.max_clip_pixels
    )

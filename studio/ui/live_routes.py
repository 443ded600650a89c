"""The short way between page and jobs: a click becomes a job in one request, its steps come back as one event stream.

Gradio's own events rebuild components and their schemas for every update: measured on two cores, 185 ms from a click
to its handler with sixty inputs, and 15 ms of the interpreter's time for each preview. Here a click is one JSON request
and a preview one server-sent event, which together keep the first picture within a step and 150 ms.

    POST stepwise/{tab}/run                       {"values": [...], "owner": "..."}  -> {"session": {"job", ...}}
    GET  stepwise/{tab}/jobs/{job}/events         -> text/event-stream of {"status", "final", "notice", "parts"}
    GET  stepwise/{tab}/jobs/{job}/steps/{step}   -> {"parts"}
    POST stepwise/{tab}/jobs/{job}/stop           -> {}
    POST stepwise/{tab}/jobs/{job}/frame          a picture's file -> {"final"}, when the job has taken it or is over
    POST stepwise/{tab}/jobs/{job}/say            {"values": {...}} -> {"final"}

`parts` maps the id of an element of the page to what changes in it: "html", "file" (where a stored file is fetched, see
studio/ui/results_route.py) or an attribute, None to remove it. assets/js/live.js applies them. The routes stand behind
the same guards as Gradio's. Where people sign in, a job answers to whoever made it and to an admin; else its id, drawn
at random, is the right to see it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from anyio import to_thread
from gradio.context import LocalContext
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipelines.core.errors import SettingsError, StepwiseError
from studio.jobs.inbox import Inbox
from studio.jobs.job import Job, JobStatus, View
from studio.jobs.stream import PREVIEWS_A_SECOND, watch
from studio.safety.owner import derive_owner
from studio.ui import markup

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["LiveTab", "Parts", "build_live_routes"]

Parts = dict[str, dict[str, Any]]
"""Element id to what changes in it."""

FRAME_BYTES = 4 * 2**20
"""Of one frame's file."""

FRAME_PATIENCE = 1.0
"""Seconds after which a frame's sender may send another, though the job has not looked yet."""

_LOG = logging.getLogger("stepwise.page")
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


_Answer = Callable[[Request, "LiveTab"], Awaitable[Response]]


@dataclasses.dataclass(frozen=True)
class LiveTab:
    """Says what a tab does behind these routes.

    Attributes:
        key: the task's.
        read: the form's values in the order of its inputs, to (what the browser remembers, values of the task).
        renderer: a job to a function from its views to parts.
        at_step: job, step from 1 and whether to decode it sharply, to parts; None where there is no scrubber.
        hear: a running job to where the page's frames and changed settings are left for it; None where it takes none.
        understand: a job and untrusted settings to what is left there.
        per_second: views of a job that a page gets at most.
    """

    key: str
    read: Callable[[Sequence[Any]], tuple[dict[str, Any], dict[str, Any]]]
    renderer: Callable[[Job], Callable[[View], Parts]]
    at_step: Callable[[Job, int, bool], Parts] | None = None
    hear: Callable[[Job], Inbox] | None = None
    understand: Callable[[Job, Mapping[str, Any]], Mapping[str, Any]] | None = None
    per_second: float = PREVIEWS_A_SECOND


def build_live_routes(studio: Studio, tabs: Mapping[str, LiveTab]) -> list[Route]:
    """Build the routes of all tabs, to stand before Gradio's own.

    Args:
        studio: the backend.
        tabs: by key.
    """
    live = _LiveRoutes(studio)
    answers = (
        ("jobs/{job}/frame", live.frame, "POST"),
        ("jobs/{job}/say", live.say, "POST"),
        ("run", live.run, "POST"),
        ("jobs/{job}/events", live.events, "GET"),
        ("jobs/{job}/steps/{step:int}", live.step, "GET"),
        ("jobs/{job}/stop", live.stop, "POST"),
    )
    return [
        Route(f"/stepwise/{{tab}}/{path}", _find_tab_first(answer, tabs), methods=[method])
        for path, answer, method in answers
    ]


def _find_tab_first(answer: _Answer, tabs: Mapping[str, LiveTab]) -> Callable[[Request], Awaitable[Response]]:
    """The answer to a request of a tab that there is; a refusal is one sentence."""

    async def answer_guarded(request: Request) -> Response:
        tab = tabs.get(request.path_params["tab"])
        if tab is None:
            return _build_refusal("There is no such tab.", 404)
        try:
            return await answer(request, tab)
        except StepwiseError as error:
            return _build_refusal(str(error), 422)

    return answer_guarded


class _LiveRoutes:
    """The answers, each to a request of one tab."""

    def __init__(self, studio: Studio):
        self.studio = studio

    async def run(self, request: Request, tab: LiveTab) -> Response:
        content = await _read_content(request)
        LocalContext.request.set(gr.Request(request))  # as in Gradio's own events: ZeroGPU charges whoever asks
        owner = derive_owner(request.scope, str(content.get("owner") or ""))
        job, draft, values = await to_thread.run_sync(_submit, self.studio, tab, content["values"], owner)
        seed = values.get("base", values).get("seed")
        session = {
            "job": job.id,
            "draft": _write_large_numbers_as_text(draft),
            "seed": _write_large_numbers_as_text(seed),
        }
        return JSONResponse({"session": session}, headers=_HEADERS)

    async def events(self, request: Request, tab: LiveTab) -> Response:
        stream = _stream_events(self._find_job(request, tab), tab)
        return StreamingResponse(stream, media_type="text/event-stream", headers=_HEADERS)

    async def step(self, request: Request, tab: LiveTab) -> Response:
        job = self._find_job(request, tab)
        if tab.at_step is None:
            raise SettingsError("This tab has no trajectory to move through.")
        sharp = request.query_params.get("sharp") == "1"
        parts = await to_thread.run_sync(tab.at_step, job, request.path_params["step"], sharp)
        return JSONResponse({"parts": parts}, headers=_HEADERS)

    async def stop(self, request: Request, tab: LiveTab) -> Response:
        job = self._find_job(request, tab)
        self.studio.cancel(job.id, self.studio.people.person(request.scope))
        return JSONResponse({}, headers=_HEADERS)

    async def frame(self, request: Request, tab: LiveTab) -> Response:
        job = self._find_job(request, tab)
        inbox, content = _find_inbox(job, tab), await request.body()
        if not 0 < len(content) <= FRAME_BYTES:
            raise SettingsError(f"A frame's file has {len(content)} bytes. Send one of at most {FRAME_BYTES}.")
        number = inbox.put_frame(content)
        # The answer is the page's leave to send the next one, so that none queues up anywhere.
        until = time.monotonic() + FRAME_PATIENCE
        while inbox.holds(number) and not job.status.final and time.monotonic() < until:
            await asyncio.sleep(0.01)
        return JSONResponse({"final": job.status.final}, headers=_HEADERS)

    async def say(self, request: Request, tab: LiveTab) -> Response:
        job = self._find_job(request, tab)
        inbox = _find_inbox(job, tab)
        content = await _read_object(request)
        values = content.get("values", {})
        if not isinstance(values, dict) or tab.understand is None:
            raise SettingsError("The settings must be an object.")
        inbox.say(await to_thread.run_sync(tab.understand, job, values))
        return JSONResponse({"final": job.status.final}, headers=_HEADERS)

    def _find_job(self, request: Request, tab: LiveTab) -> Job:
        job = self.studio.job(request.path_params["job"], self.studio.people.person(request.scope))
        if job.task != tab.key:
            raise SettingsError("This job belongs to another tab.")
        return job


def _find_inbox(job: Job, tab: LiveTab) -> Inbox:
    if tab.hear is None:
        raise SettingsError("This tab's runs take nothing while they run.")
    return tab.hear(job)


def _write_large_numbers_as_text(value: object) -> Any:
    """A draft whose whole numbers beyond 2^53, where a browser's numbers end, are texts; forms read either."""
    if isinstance(value, Mapping):
        return {name: _write_large_numbers_as_text(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_write_large_numbers_as_text(inner) for inner in value]
    return str(value) if isinstance(value, int) and abs(value) > 2**53 else value


def _build_refusal(sentence: str, status: int) -> Response:
    printable = sentence.encode("utf-8", "replace").decode()  # it may quote a file's name, which need not be text
    return JSONResponse({"detail": printable, "notice": markup.notice(printable)}, status, headers=_HEADERS)


async def _read_content(request: Request) -> Mapping[str, Any]:
    content = await _read_object(request)
    if not isinstance(content.get("values"), list):
        raise SettingsError("The request is not readable JSON with a list of values.")
    return content


async def _read_object(request: Request) -> Mapping[str, Any]:
    try:
        content = json.loads(await request.body(), parse_constant=_parse_finite, parse_float=_parse_finite)
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # it goes back as the draft, which the browser then could not read
        raise SettingsError("The form holds half of a character. Delete it and type it anew.") from error
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise SettingsError("The request is not readable JSON with a list of values.")
    return content


def _parse_finite(number: str) -> float:
    """A number of JSON, which knows neither infinity nor NaN, as Python would read them."""
    if not math.isfinite(value := float(number)):
        raise ValueError(number)
    return value


def _submit(
    studio: Studio, tab: LiveTab, form_values: Sequence[object], owner: str
) -> tuple[Job, dict[str, Any], Mapping[str, Any]]:
    """The job, what the browser remembers of its form, and the task's plain values."""
    try:
        draft, values = tab.read(form_values)
    except StepwiseError:  # some of ours are ValueErrors too
        raise
    except (
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        AttributeError,
    ) as error:  # the page sends none of these, a program may
        _LOG.info("a form that cannot be read: %r", error)
        raise SettingsError("The form could not be read. Reload the page and try again.") from error
    return studio.submit(tab.key, values, owner), draft, values


async def _stream_events(job: Job, tab: LiveTab) -> AsyncIterator[str]:
    """What is new in each view of a job, until it is over."""
    render = tab.renderer(job)
    sent_parts: dict[str, Any] = {}
    try:
        async for view in watch(job, tab.per_second):
            parts = await to_thread.run_sync(render, view)
            fresh = {name: part for name, part in parts.items() if sent_parts.get(name) != part}
            sent_parts |= fresh
            failed = view.message if view.status is JobStatus.FAILED else ""
            yield _format_event(view.status.value, fresh, markup.notice(failed), view.status.final)
    except Exception:  # whatever breaks here must not leave the page without its button
        _LOG.exception("the page lost job %s", job.id)
        sentence = "The page lost the connection to the run; reload it to find the run again."
        yield _format_event("lost", {}, markup.notice(sentence), final=True)


def _format_event(status: str, parts: Parts, notice: str, final: bool) -> str:
    content = {"status": status, "final": final, "notice": notice, "parts": parts}
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"

"""The short way between page and jobs: a click becomes a job in one request, its steps come back as one event stream.

Gradio's own events rebuild components and their schemas for every update: measured on two cores, 185 ms from a click
to its handler with sixty inputs, and 15 ms of the interpreter's time for each preview. Here a click is one JSON request
and a preview one server-sent event, which together keep the first picture within a step and 150 ms.

    POST stepwise/{tab}/run                       {"values": [...], "owner": "..."}  -> {"session": {...}}
    GET  stepwise/{tab}/jobs/{job}/events         -> text/event-stream of {"status", "final", "notice", "parts"}
    GET  stepwise/{tab}/jobs/{job}/steps/{step}   -> {"parts"}
    POST stepwise/{tab}/jobs/{job}/stop           -> {}

`parts` maps the id of an element of the page to what changes in it: "html", "file" (where a stored file is fetched, see studio/ui/results_route.py) or an
attribute, None to remove it. assets/js/live.js applies them. The routes stand behind the same guards as Gradio's; a
job's id is the right to see it, and is drawn at random.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from anyio import to_thread
from gradio.context import LocalContext
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipelines.core.errors import SettingsError, StepwiseError
from studio.jobs.job import Job, JobStatus, View
from studio.jobs.stream import watch
from studio.safety.owner import owner_of
from studio.ui import markup

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["LiveTab", "Parts", "live_routes"]

Parts = dict[str, dict[str, Any]]
"""Element id to what changes in it."""

_LOG = logging.getLogger("stepwise.page")
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


@dataclasses.dataclass(frozen=True)
class LiveTab:
    """What a tab does behind these routes.

    Attributes:
        key: the tab's, which is also its task's.
        read: the form's values in the order of its inputs, to (what the browser remembers, values of the task).
        renderer: a job to a function from its views to parts.
        at_step: job, step from 1 and whether to decode it sharply, to parts; None where there is no scrubber.
    """

    key: str
    read: Callable[[Sequence[Any]], tuple[dict[str, Any], dict[str, Any]]]
    renderer: Callable[[Job], Callable[[View], Parts]]
    at_step: Callable[[Job, int, bool], Parts] | None = None


def live_routes(studio: Studio, tabs: Mapping[str, LiveTab]) -> list[Route]:
    """The routes of all tabs, to stand before Gradio's own.

    Args:
        studio: the backend.
        tabs: by key.
    """

    def route(path: str, answer: Callable[[Request, LiveTab], Awaitable[Response]], method: str) -> Route:
        async def guarded(request: Request) -> Response:
            tab = tabs.get(request.path_params["tab"])
            if tab is None:
                return _refused("There is no such tab.", 404)
            try:
                return await answer(request, tab)
            except StepwiseError as error:
                return _refused(str(error), 422)

        return Route(f"/stepwise/{{tab}}/{path}", guarded, methods=[method])

    def job_of(request: Request, tab: LiveTab) -> Job:
        job = studio.job(request.path_params["job"])
        if job.task != tab.key:
            raise SettingsError("This job belongs to another tab.")
        return job

    async def run(request: Request, tab: LiveTab) -> Response:
        content = await _content(request)
        LocalContext.request.set(gr.Request(request))  # as in Gradio's own events: ZeroGPU charges whoever asks
        owner = owner_of(request.scope, str(content.get("owner") or ""))
        job, draft = await to_thread.run_sync(_submit, studio, tab, content["values"], owner)
        return JSONResponse({"session": {"job": job.id, "draft": draft}}, headers=_HEADERS)

    async def events(request: Request, tab: LiveTab) -> Response:
        stream = _events(job_of(request, tab), tab)
        return StreamingResponse(stream, media_type="text/event-stream", headers=_HEADERS)

    async def step(request: Request, tab: LiveTab) -> Response:
        job = job_of(request, tab)
        if tab.at_step is None:
            raise SettingsError("This tab has no trajectory to move through.")
        sharp = request.query_params.get("sharp") == "1"
        parts = await to_thread.run_sync(tab.at_step, job, request.path_params["step"], sharp)
        return JSONResponse({"parts": parts}, headers=_HEADERS)

    async def stop(request: Request, tab: LiveTab) -> Response:
        job_of(request, tab).cancel()
        return JSONResponse({}, headers=_HEADERS)

    return [
        route("run", run, "POST"),
        route("jobs/{job}/events", events, "GET"),
        route("jobs/{job}/steps/{step:int}", step, "GET"),
        route("jobs/{job}/stop", stop, "POST"),
    ]


def _refused(sentence: str, status: int) -> Response:
    plain = sentence.encode("utf-8", "replace").decode()  # it may quote a file's name, which need not be text
    return JSONResponse({"detail": plain, "notice": markup.notice(plain)}, status, headers=_HEADERS)


async def _content(request: Request) -> Mapping[str, Any]:
    try:
        content = json.loads(await request.body(), parse_constant=_finite, parse_float=_finite)
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # it goes back as the draft, which the browser then could not read
        raise SettingsError("The form holds half of a character. Delete it and type it anew.") from error
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("values"), list):
        raise SettingsError("The request is not readable JSON with a list of values.")
    return content


def _finite(number: str) -> float:
    """A number of JSON, which knows neither infinity nor NaN, as Python would read them."""
    if not math.isfinite(value := float(number)):
        raise ValueError(number)
    return value


def _submit(studio: Studio, tab: LiveTab, sent: Sequence[Any], owner: str) -> tuple[Job, dict[str, Any]]:
    try:
        draft, values = tab.read(sent)
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
    return studio.submit(tab.key, values, owner), draft


async def _events(job: Job, tab: LiveTab) -> AsyncIterator[str]:
    """What is new in each view of a job, until it is over."""
    render, sent = tab.renderer(job), {}
    try:
        async for view in watch(job):
            parts = await to_thread.run_sync(render, view)
            fresh = {name: part for name, part in parts.items() if sent.get(name) != part}
            sent |= fresh
            failed = view.message if view.status is JobStatus.FAILED else ""
            yield _event(view.status.value, fresh, markup.notice(failed), view.status.final)
    except Exception:  # whatever breaks here must not leave the page without its button
        _LOG.exception("the page lost job %s", job.id)
        told = "The page lost sight of the run; reload it to find the run again."
        yield _event("lost", {}, markup.notice(told), final=True)


def _event(status: str, parts: Parts, notice: str, final: bool) -> str:
    content = {"status": status, "final": final, "notice": notice, "parts": parts}
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"

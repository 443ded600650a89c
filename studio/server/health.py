"""Whether the server lives, whether it can take work, and its figures for Prometheus.

GET  /healthz   200 as long as the server answers at all
GET  /readyz    200 while jobs can be taken and results can be written, else 503 with what is wrong
GET  /metrics   Prometheus's text format; for this very machine, and for an admin who has signed in
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pipelines.core.errors import StepwiseError
from pipelines.models.device_choice import name_device, read_memory
from studio.safety.asgi import get_header
from studio.safety.origin import is_loopback

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["health_routes"]

_INSTALL = "The figures need a package that is not installed. Run: pip install -r requirements-metrics.txt"


def health_routes(studio: Studio) -> list[Route]:
    """Build the three routes, to stand before gradio's own."""

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        problem = await to_thread.run_sync(_find_problem, studio)
        return PlainTextResponse(f"{problem or 'ready'}\n", 503 if problem else 200)

    async def metrics(request: Request) -> Response:
        if not _may_read(studio, request):
            return JSONResponse({"detail": "The figures are for this machine and for admins."}, 403)
        if find_spec("prometheus_client") is None:
            return JSONResponse({"detail": _INSTALL}, 501)
        from prometheus_client import CONTENT_TYPE_LATEST

        text = await to_thread.run_sync(_render, studio)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    answers = {"healthz": healthz, "readyz": readyz, "metrics": metrics}
    return [Route(f"/{name}", answer, methods=["GET"]) for name, answer in answers.items()]


def _may_read(studio: Studio, request: Request) -> bool:
    host = request.client.host if request.client else ""
    if is_loopback(host) and get_header(request.scope, "x-forwarded-for") is None:
        return True
    return studio.people.are_separate and studio.people.person(request.scope).is_admin


def _find_problem(studio: Studio) -> str:
    if not studio.engine.takes_jobs:
        return "The studio is shutting down."
    try:
        studio.store.count_bytes()
        studio.housekeeper.require_room()
    except StepwiseError as error:
        return str(error)
    if not os.access(studio.store.folder, os.W_OK):
        return "The results folder cannot be written to."
    return ""


def _render(studio: Studio) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(studio))
    return bytes(generate_latest(registry))


class _Collector:
    """Reads the studio's figures when they are asked for.

    Args:
        studio: whose.
    """

    def __init__(self, studio: Studio):
        self._studio = studio

    def collect(self) -> Iterator[Any]:
        """The metrics, in prometheus_client's form."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        jobs, refusals, evaluations, seconds = self._studio.tally.read()
        waiting, running = self._studio.engine.count_jobs()
        usage = self._studio.store.count_bytes()
        yield GaugeMetricFamily("stepwise_jobs_waiting", "Jobs in the queue.", waiting)
        yield GaugeMetricFamily("stepwise_jobs_running", "Jobs that run, at most one a device.", running)
        ended = CounterMetricFamily("stepwise_jobs_ended", "Jobs that are over, by how they ended.", labels=["status"])
        for status, count in jobs.items():
            ended.add_metric([status], count)
        yield ended
        yield CounterMetricFamily("stepwise_evaluations", "Evaluations of networks.", evaluations)
        yield CounterMetricFamily("stepwise_device_seconds", "Seconds that jobs held the device.", seconds)
        refused = CounterMetricFamily("stepwise_refusals", "Refused requests, by HTTP status.", labels=["status"])
        for code, count in refusals.items():
            refused.add_metric([str(code)], count)
        yield refused
        held = sum(loader.cache.used_bytes for loader in self._studio.loaders)
        yield GaugeMetricFamily("stepwise_models_bytes", "Memory that loaded models take.", held)
        yield from _collect_devices(self._studio)
        yield GaugeMetricFamily("stepwise_resident_bytes", "Resident memory of the process.", _resident())
        places = GaugeMetricFamily("stepwise_results_bytes", "Bytes of results.", labels=["place"])
        places.add_metric(["gallery"], usage.results)
        places.add_metric(["trash"], usage.trash)
        yield places


def _collect_devices(studio: Studio) -> Iterator[Any]:
    """Of devices with a memory of their own, all of it and what is free."""
    from prometheus_client.core import GaugeMetricFamily

    labels = ["device", "name"]
    total = GaugeMetricFamily("stepwise_device_memory_bytes", "Memory of a device.", labels=labels)
    free = GaugeMetricFamily("stepwise_device_free_bytes", "Free memory of a device.", labels=labels)
    for loader in studio.loaders:
        memory = read_memory(loader.device)
        if memory is not None:
            total.add_metric([loader.device, name_device(loader.device)], memory.total)
            free.add_metric([loader.device, name_device(loader.device)], memory.free)
    yield total
    yield free


def _resident() -> int:
    """Resident bytes of this process; 0 where the system does not say in the way of Linux."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError, ValueError):
        return 0

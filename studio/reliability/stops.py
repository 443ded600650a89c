"""Stopping at the largest request that is allowed: a cancel, and the end of the server."""

from __future__ import annotations

import json
import signal
import threading
import time
from typing import Any

from studio.reliability.server import Server

__all__ = ["LARGEST", "run"]

LARGEST = {"width": 2048, "height": 2048, "batch_size": 4, "num_inference_steps": 200}
"""Settings at the caps of `Limits`: an evaluation of them takes a CPU minutes."""

_INTO_IT = 8.0
"""Seconds after which the run is in the middle of its first evaluation."""


def run(server: Server) -> dict[str, Any]:
    """Measure the figure: how long a cancel takes, and then SIGTERM in the middle of such a run, with another job
    waiting.

    Args:
        server: running; it has ended afterwards.

    Returns:
        `cancel_seconds`, `exit_seconds`, `status` of the process, and `told`, how many of two clients were told that
        their job was cancelled.
    """
    server.call("generate", "a fox", {"num_inference_steps": 1})  # the model is loaded, and its libraries imported
    job, watcher, ends = _start(server, LARGEST)
    time.sleep(_INTO_IT)
    began = time.monotonic()
    server.call("cancel", job)
    watcher.join(120)
    cancel_seconds = time.monotonic() - began
    _, running, running_ends = _start(server, LARGEST)
    _, waiting, waiting_ends = _start(server, {"num_inference_steps": 2}, follow=False)
    time.sleep(_INTO_IT)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    status = server.process.wait(120)
    exit_seconds = time.monotonic() - began
    for thread in (running, waiting):
        thread.join(10)
    clients_told = sum(end == "cancelled" for end in (*running_ends, *waiting_ends))
    return {
        "cancel_seconds": cancel_seconds,
        "cancelled": ends == ["cancelled"],
        "exit_seconds": exit_seconds,
        "status": status,
        "told": clients_told,
    }


def _start(server: Server, settings: object, follow: bool = True) -> tuple[str, threading.Thread, list[str]]:
    """A job that runs or waits, the thread that follows it, and the last status that it was told."""
    event = server.begin("generate", ["a fox", settings]).json()["event_id"]
    ends: list[str] = []
    is_known = threading.Event()
    jobs: list[str] = []

    def watch() -> None:
        import httpx

        last = ""
        try:
            with (
                httpx.Client(base_url=server.url, timeout=180, trust_env=False) as web,
                web.stream("GET", f"/gradio_api/call/generate/{event}") as stream,
            ):
                for line in stream.iter_lines():
                    if line.startswith("data: [{"):
                        content = json.loads(line[6:])[0]
                        jobs.append(content["job"])
                        last = content["status"]
                        is_known.set()
        except httpx.HTTPError:
            last = "cut"
        ends.append(last)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    if follow:
        is_known.wait(60)
    return (jobs[-1] if jobs else ""), thread, ends

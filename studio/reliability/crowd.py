"""Many people at once: each connects, asks for a picture of their own, and must get that one."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import statistics
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.reliability.server import Server

__all__ = ["run"]

_STEPS = 4
_TIMES = ("/config", "/")


def run(server: Server, clients: int = 50, downloads: Path | None = None) -> dict[str, Any]:
    """Measure the figure: how many of so many `gradio_client` clients, with its own timeouts, got their picture.

    Args:
        server: running.
        clients: that connect at the same moment.
        downloads: folder for the files that they fetch.

    Returns:
        `connected`, `done`, `crossed` (pictures that somebody else asked for), `slowest_to_median` of the times to a
        picture, and `config_seconds` and `page_seconds`, the worst of those documents meanwhile.
    """
    outcomes: list[Mapping[str, Any]] = []
    lock, together = threading.Lock(), threading.Barrier(clients)
    context = multiprocessing.get_context("spawn")  # beside fifty clients in one interpreter a clock would measure them

    def visit(number: int) -> None:
        outcome = _visit(server.url, number, together, downloads)
        with lock:
            outcomes.append(outcome)

    stop = context.Event()
    queue = context.Queue()
    watcher = context.Process(target=_watch, args=(server.url, queue, stop), daemon=True)
    watcher.start()
    visitors = [threading.Thread(target=visit, args=(number,), daemon=True) for number in range(clients)]
    for thread in visitors:
        thread.start()
    for thread in visitors:
        thread.join()
    stop.set()
    watched = queue.get(timeout=180)
    watcher.join()
    seconds = sorted(one["seconds"] for one in outcomes if one["done"]) or [float("nan")]
    return {
        "clients": clients,
        "connected": sum(one["connected"] for one in outcomes),
        "done": sum(one["done"] for one in outcomes),
        "crossed": sum(one["crossed"] for one in outcomes),
        "median_seconds": statistics.median(seconds),
        "slowest_to_median": seconds[-1] / statistics.median(seconds),
        "config_seconds": max(watched["/config"]),
        "page_seconds": max(watched["/"]),
        "problems": sorted({one["problem"] for one in outcomes if one["problem"]})[:5],
    }


def _watch(url: str, queue: Any, stop: Any) -> None:
    """Time the page's documents again and again, in a process of its own."""
    import httpx

    seconds: dict[str, list[float]] = {path: [] for path in _TIMES}
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as web:
        while not stop.is_set() or not all(seconds.values()):
            for path in _TIMES:
                began = time.monotonic()
                with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):  # a kept connection was closed
                    web.get(path)
                    seconds[path].append(time.monotonic() - began)
            stop.wait(0.2)
    queue.put(seconds)


def _visit(url: str, number: int, together: threading.Barrier, downloads: Path | None) -> dict[str, Any]:
    from gradio_client import Client

    outcome = {"connected": 0, "done": 0, "crossed": 0, "seconds": 0.0, "problem": ""}
    prompt = f"a fox on a blue background, visitor {number}"
    try:
        together.wait(60)
        began = time.monotonic()
        client = Client(url, verbose=False, **({"download_files": str(downloads)} if downloads else {}))
        outcome["connected"] = 1
        settings = {"num_inference_steps": _STEPS, "seed": number}
        answer = client.predict(prompt, settings, api_name="/generate")
        outcome["seconds"] = time.monotonic() - began
        outcome["done"] = int(answer["status"] == "done" and bool(answer["images"]))
        outcome["crossed"] = int(_read_prompt(answer) != prompt)
    except Exception as error:  # whatever a client meets is the figure
        outcome["problem"] = f"{type(error).__name__}: {error}"[:160]
    return outcome


def _read_prompt(answer: Mapping[str, Any]) -> str:
    """The prompt that the fetched picture says it was made of."""
    from studio import infotext

    image = answer["images"][0]
    path = image["path"] if isinstance(image, Mapping) else image
    metadata = infotext.read(path)
    return str(metadata.values.get("prompt", "")) if metadata is not None else json.dumps(answer)[:80]

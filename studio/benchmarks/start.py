"""How long the page takes to start, to open, and to show the first preview after the first click.

Needs `playwright` (tests/requirements.txt) and a Chromium on the path.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.core.errors import StepwiseError
from studio.benchmarks.backend import Figure, time_alternately
from studio.benchmarks.page import UNTIL, WATCH

__all__ = ["measure_beside", "measure_start"]

_ROOT = Path(__file__).resolve().parents[2]
_LOOKS = 10.0
"""Seconds for which somebody looks at a page before the first click."""

_OLD_FIRST_PREVIEW, _SHARE_OF_OLD = 7.8, 0.2
"""Seconds from a click to the first preview before models were loaded in the background, and the share that may be."""

_SHARE_OF_OLD_START = 0.7
"""Of the time from command to page of that build."""


def measure_start(browser: Any, folder: Path) -> list[Figure]:
    """Measure `python app.py` in processes of its own: from the command to the page, what the page loads, and from a
    click to the first preview, of somebody who clicks at once and of somebody who looks at the page first."""
    with _run_app(folder / "start") as (url, began):
        page = browser.new_context().new_page()
        loaded_bytes, hosts, shown_at = _measure_loads(page, url)
        waits = {"looked at the page for a while": _time_click(page, _LOOKS), "its second click": _time_click(page, 1)}
    with _run_app(folder / "start") as (url, _):
        page = browser.new_context().new_page()
        page.goto(url)
        page.wait_for_selector("#t2i-run")
        waits = {"clicked at once": _time_click(page, 0), **waits}
    name = "fresh start, click to first preview"
    bounds = dict.fromkeys(("clicked at once", "looked at the page for a while"), _SHARE_OF_OLD * _OLD_FIRST_PREVIEW)
    return [
        Figure("command to page", shown_at - began, "s", 10, "from `python app.py` to the Generate button in Chromium"),
        Figure("page weight", float(loaded_bytes), "bytes", 1_000_000, "transferred by the first load"),
        Figure("outside hosts", float(len(hosts - {"127.0.0.1"})), "hosts", 0, ", ".join(sorted(hosts))),
        *(
            Figure(f"{name}: {who}", seconds, "s", bounds.get(who), "the model that the page opens on")
            for who, seconds in waits.items()
        ),
    ]


def measure_beside(browser: Any, folder: Path, other: Path, rounds: int) -> list[Figure]:
    """Measure starts of this checkout beside those of another one, in turn, as ratios.

    In seconds, and in the processor's time of the app and the browser together, which other work on the machine changes
    less.

    Args:
        browser: a Chromium.
        folder: for their models, results and temporary files.
        other: a checkout of another build.
        rounds: pairs; one more warms up.
    """
    processor: dict[Path, list[float]] = {_ROOT: [], other: []}

    def start(root: Path) -> float:
        own = folder / ("ours" if root == _ROOT else "theirs")  # an older build cannot read a newer one's index
        spent = _count_processor_seconds()
        with _run_app(own, root) as (url, began):
            context = browser.new_context()
            page = context.new_page()
            page.set_default_timeout(120_000)
            page.goto(url)
            page.wait_for_selector("#t2i-run")
            shown = time.perf_counter() - began
            processor[root].append(
                sum(now - spent.get(process, 0) for process, now in _count_processor_seconds().items())
            )
            context.close()
        return shown

    name = "command to page ÷ that of the build beside"
    ratio, ours, theirs = time_alternately(lambda: start(_ROOT), lambda: start(other), rounds)
    figures = [Figure(name, ratio, "×", _SHARE_OF_OLD_START, f"{ours:.1f} s against {theirs:.1f} s")]
    if any(processor[_ROOT]):
        warm = [processor[root][1:] for root in (_ROOT, other)]
        ratio = statistics.median(a / b for a, b in zip(*warm, strict=True))
        ours, theirs = map(statistics.median, warm)
        detail = f"{ours:.1f} s against {theirs:.1f} s of app and browser"
        figures.append(Figure(f"{name}, processor's time", ratio, "×", _SHARE_OF_OLD_START, detail))
    return figures


def _count_processor_seconds() -> dict[int, float]:
    """Processor's time of each running process that this one began, or one of those did; none without /proc."""
    parents, seconds, own = {}, {}, os.getpid()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            parents[int(file.parent.name)] = int(fields[1])
            seconds[int(file.parent.name)] = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def is_ours(process: int) -> bool:
        while process in parents and parents[process] != own:
            process = parents[process]
        return process in parents

    return {process: seconds[process] for process in parents if is_ours(process)}


@contextlib.contextmanager
def _run_app(folder: Path, root: Path = _ROOT) -> Iterator[tuple[str, float]]:
    """`python app.py` on a free port: its address once it answers, and when the command was given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = [part for name in ("models", "outputs", "temp") for part in (f"--{name}-folder", str(folder / name))]
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port), "--no-browser", *folders],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process)
        yield url, began
    finally:
        process.terminate()
        process.wait(120)


def _time_click(page: Any, seconds: float) -> float:
    """Seconds from a click on Generate to the first preview, so many seconds after the page stands; run to its end."""
    page.wait_for_timeout(1000 * seconds)
    page.evaluate(WATCH)
    page.click("#t2i-run")
    page.wait_for_function("() => window.seen.length > 0")
    page.evaluate(UNTIL, '#t2i-progress [data-status="done"]')
    return float(page.evaluate("() => (window.seen[0].at - window.clicked) / 1000"))


def _wait_for(url: str, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.05)
    raise StepwiseError("The app did not start. Run `python app.py` to see why.")


def _measure_loads(page: Any, url: str) -> tuple[int, set[str], float]:
    """Bytes and hosts of the first load and the first seconds after the page is ready; when it was."""
    from urllib.parse import urlsplit

    sizes, hosts = [0], set()
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.goto(url)
    page.wait_for_selector("#t2i-run")
    shown_at = time.perf_counter()
    page.wait_for_timeout(1500)
    return int(sum(sizes)), {host for host in hosts if host}, shown_at

"""The page's own figures, measured with a real Chromium: streaming, first preview, disk, weight, start.

Needs `playwright` (tests/requirements.txt) and a Chromium on the path.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import StepwiseError
from pipelines.core.loop import denoise
from pipelines.requests.encoding import decode
from pipelines.requests.step_pictures import with_pictures
from pipelines.requests.text_to_image import build_run, resolve
from studio.benchmarks.backend import PROMPT, Figure, build_request, time_alternately, time_loop, time_step
from studio.tasks.recording import KEPT_BYTES

if TYPE_CHECKING:
    from pipelines.families.base import Family
    from studio.backend import Studio

__all__ = ["UNTIL", "WATCH", "launch_chromium", "measure_page"]

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_LONG = 50
UNTIL = """selector => new Promise(resolve => {
    const look = () => { if (document.querySelector(selector)) { seen.disconnect(); resolve(); } };
    const seen = new MutationObserver(look);
    seen.observe(document, { subtree: true, childList: true, attributes: true });
    look();
})"""
"""Waits without polling: Playwright's own waiting makes the browser draw 60 frames a second on the model's cores."""

WATCH = """() => { window.seen = []; window.clicked = 0;
    document.addEventListener('click', event => {  // on the document, since the button is made anew for each run
        if (event.target.closest('#t2i-run')) { window.clicked = performance.now(); window.seen = []; } }, true);
    new MutationObserver(() => {
        const src = document.querySelector('#t2i-picture img')?.src;
        if (!src?.startsWith('data:image/jpeg')) return;  // the empty place is a GIF
        if (window.seen.at(-1)?.src !== src) window.seen.push({src, at: performance.now()});
    }).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ['src']}); }"""


@contextlib.contextmanager
def launch_chromium() -> Iterator[Any]:
    """Launch a headless Chromium.

    Raises:
        StepwiseError: playwright or the browser is not there.
    """
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        executable = None
    if not executable:
        raise StepwiseError(
            "The page's figures need a Chromium on the path, and: pip install -r tests/requirements.txt"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        yield browser
        browser.close()


class _Visit:
    """One person at the tab "Text to image"."""

    def __init__(self, browser: Any, url: str):
        self.page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        self.page.set_default_timeout(60_000)
        self.page.goto(url)
        self.page.wait_for_selector("#t2i-run")
        self.page.fill("#t2i-prompt textarea", PROMPT)
        self.page.evaluate(WATCH)

    def steps(self, count: int) -> None:
        """Choose the number of steps."""
        box = self.page.locator("#t2i-steps input[type=number]")
        box.fill(str(count))
        box.press("Tab")
        self.page.wait_for_timeout(300)

    def generate(self) -> None:
        """Click, and wait until the picture is there."""
        self.start()
        self.page.evaluate(UNTIL, '#t2i-progress [data-status="done"]')
        self.page.wait_for_selector("#t2i-run")

    def start(self) -> None:
        """Click, and wait for the run to begin."""
        self.page.click("#t2i-run")
        self.page.wait_for_selector("#t2i-stop")

    def stop(self) -> None:
        """Stop the run and wait for its end."""
        self.page.click("#t2i-stop")
        self.page.wait_for_selector("#t2i-run")

    def previews(self) -> list[float]:
        """Milliseconds from the click to each preview of the last run."""
        return [
            seen["at"] for seen in self.page.evaluate("() => window.seen.map(one => ({at: one.at - window.clicked}))")
        ]


def measure_page(
    studio: Studio, family: Family, browser: object, url: str, temp: Path, rounds: int = 5
) -> list[Figure]:
    """Measure streaming against the bare loop, the first preview, and what previews write to the disk.

    Args:
        studio: the one behind the page; its worker and the bare loop run in this process in turn.
        family: its loaded model.
        browser: a Chromium.
        url: of the page.
        temp: gradio's temporary folder.
        rounds: alternating pairs.
    """
    visit = _Visit(browser, url)
    figures = [_measure_streaming(studio, family, visit, rounds), _time_first_preview(family, visit, rounds)]
    return [*figures, _measure_previews(family, rounds), _measure_disk_writes(studio, visit, temp)]


def _measure_streaming(studio: Studio, family: Family, visit: _Visit, rounds: int) -> Figure:
    resolved = resolve(build_request(num_inference_steps=_LONG), family)
    visit.steps(_LONG)

    def time_page() -> float:
        visit.generate()
        job = studio.get_latest()
        return job.view().seconds if job else math.nan

    ratio, page, loop = time_alternately(time_page, lambda: time_loop(family, resolved), rounds)
    return Figure(
        "through the page with previews ÷ our bare loop",
        ratio,
        "×",
        1.05,
        f"{page:.2f} s, the picture's storing included, against {loop:.2f} s, {_LONG} steps",
    )


def _time_first_preview(family: Family, visit: _Visit, rounds: int) -> Figure:
    step, waits = time_step(family), []
    for _ in range(rounds + 1):
        visit.generate()
        waits.append(visit.previews()[0])
    return Figure(
        "click to first preview",
        statistics.median(waits[1:]),
        "ms",
        step * 1000 + 150,
        f"median of {rounds}; one step takes {step * 1000:.0f} ms",
    )


def _measure_previews(family: Family, rounds: int) -> Figure:
    """What decoding every step's preview adds to a run, without the page."""
    resolved = resolve(build_request(num_inference_steps=_LONG), family)

    def time_with_previews() -> float:
        began = time.perf_counter()
        steps = ((0, step) for step in denoise(build_run(resolved, family)))
        *_, (_, step, _) = with_pictures(steps, [family], KEPT_BYTES)
        decode(family, step.latents)
        return time.perf_counter() - began

    ratio, previews, loop = time_alternately(time_with_previews, lambda: time_loop(family, resolved), rounds)
    detail = f"{previews:.2f} s against {loop:.2f} s, {_LONG} steps, a preview each"
    return Figure("a run with previews ÷ without", ratio, "×", 1.03, detail)


def _measure_disk_writes(studio: Studio, visit: _Visit, temp: Path) -> Figure:
    visit.steps(200)
    before, num_previews = _count_bytes(temp) + _count_bytes(studio.store.folder), 0
    while num_previews < 100:
        visit.start()
        visit.page.wait_for_timeout(4000)
        num_previews += len(visit.previews())
        visit.stop()
    written_bytes = _count_bytes(temp) + _count_bytes(studio.store.folder) - before
    return Figure("disk written by 100 previews", float(written_bytes), "bytes", 0, f"{num_previews} previews")


def _count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and ".sqlite" not in path.name)

"""The studio's own figures, measured in one run: the loop against the stock pipeline, and the backend.

Run it as `python -m pipelines.benchmark studio`. Every speed is a ratio of medians of alternating runs, since
the machines it runs on are shared and noisy.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pipelines.core.loop import denoise, denoise_together
from pipelines.core.types import Choice, Request
from pipelines.families.base import Family
from pipelines.models.catalog import SHIPPED
from pipelines.requests.text_to_image import ResolvedRun, build_run, decode, resolve
from studio.backend import Studio, StudioSettings
from studio.jobs.heap import give_back
from studio.jobs.job import Job, JobStatus
from studio.reliability.memory import used

__all__ = [
    "Figure",
    "alternating",
    "backend_figures",
    "markdown",
    "request_for",
    "step_seconds",
    "switching",
    "timed_loop",
]

PROMPT = "a fox on a blue background"
STEPS = 25


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: what was measured.
        value: the measurement.
        unit: "×", "ms", "s", "bytes", ...
        must: the most it may be; None where it is only reported.
        detail: how it came about.
    """

    name: str
    value: float
    unit: str
    must: float | None = None
    detail: str = ""


def alternating(first: Callable[[], float], second: Callable[[], float], rounds: int = 7) -> tuple[float, float, float]:
    """(median of the pairwise ratios first / second, median first, median second), after one warm-up of each.

    Args:
        first, second: do the work and return the seconds it took.
        rounds: pairs; the order within a pair alternates.
    """
    first(), second()
    pairs = []
    for i in range(rounds):
        pair = (first(), second()) if i % 2 == 0 else (second(), first())[::-1]
        pairs.append(pair)
    return (
        statistics.median(a / b for a, b in pairs),
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
    )


def request_for(seed: int = 0, **changes: Any) -> Request:
    """The request that all figures use."""
    plain = Request(
        prompt=PROMPT, num_inference_steps=STEPS, seed=seed, guidance=Choice("cfg", {"guidance_scale": 4.0})
    )
    return plain.replace(**changes)


def timed_loop(family: Family, resolved: ResolvedRun) -> float:
    """Seconds of the bare loop, from the prompt to the decoded picture."""
    began = time.perf_counter()
    for step in denoise(build_run(resolved, family)):
        pass
    decode(family, step.latents)
    return time.perf_counter() - began


def stock_pipeline(family: Family) -> Any:
    """diffusers' own pipeline on the same components, with the sampler of `request_for`."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    pipeline = StableDiffusionPipeline(
        **{name: family.components[name] for name in names},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def timed_stock(pipeline: Any, request: Request) -> float:
    """Seconds of the stock pipeline for the same request."""
    began = time.perf_counter()
    pipeline(
        request.prompt,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=4.0,
        width=request.width,
        height=request.height,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    )
    return time.perf_counter() - began


def loop_against_stock(family: Family, rounds: int) -> Figure:
    """Our loop ÷ the stock pipeline."""
    resolved, pipeline = resolve(request_for(), family), stock_pipeline(family)
    ratio, ours, theirs = alternating(
        lambda: timed_loop(family, resolved), lambda: timed_stock(pipeline, resolved.request), rounds
    )
    return Figure(
        "our loop ÷ the stock pipeline", ratio, "×", 1.0, f"{ours:.2f} s against {theirs:.2f} s, {STEPS} steps"
    )


def batch_of_eight(family: Family, rounds: int) -> Figure:
    """Eight cells sharing a batch ÷ one after another."""
    runs = [
        resolve(request_for(sampler=Choice(key)), family)
        for key in ("dpmpp_2m", "dpmpp_1", "ddim", "euler", "euler_a", "unipc", "dpmpp_2m", "ddim")
    ]

    def together() -> float:
        began = time.perf_counter()
        for _ in denoise_together([build_run(resolved, family) for resolved in runs]):
            pass
        return time.perf_counter() - began

    def apart() -> float:
        began = time.perf_counter()
        for resolved in runs:
            for _ in denoise(build_run(resolved, family)):
                pass
        return time.perf_counter() - began

    ratio, one, other = alternating(together, apart, rounds)
    return Figure(
        "eight cells sharing a batch ÷ one after another", ratio, "×", None, f"{one:.2f} s against {other:.2f} s"
    )


def step_seconds(family: Family) -> float:
    """Median seconds of one guided step of the bare loop."""
    marks = [time.perf_counter()]
    for _ in denoise(build_run(resolve(request_for(), family), family)):
        marks.append(time.perf_counter())
    return statistics.median(b - a for a, b in zip(marks, marks[1:], strict=False))


def stop_to_free(studio: Studio, step: float, rounds: int) -> Figure:
    """From the stop to a free device, beyond one evaluation."""
    waits = []
    for i in range(rounds):
        job = studio.submit("text_to_image", {**request_for().to_json(), "num_inference_steps": 200})
        _until(job, lambda view: bool(view.cells and view.cells[0].rows))
        time.sleep(step * (i + 0.5) / rounds)  # at every moment of an evaluation alike, not just before one
        began = time.perf_counter()
        job.cancel()
        _until(job, lambda view: view.status.final)
        waits.append(time.perf_counter() - began)
    worst = max(waits)
    return Figure(
        "stop to device free",
        worst * 1000,
        "ms",
        (step + 0.05) * 1000,
        f"worst of {rounds}; one evaluation takes {step * 1000:.0f} ms",
    )


def second_use(studio: Studio, rounds: int) -> Figure:
    """Second use of a loaded model."""
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        with studio.model("emoji", Job("text_to_image", None)):
            spent.append(time.perf_counter() - began)
    return Figure(
        "second use of a loaded model", statistics.median(spent[1:]) * 1000, "ms", 50, f"median of {rounds - 1}"
    )


def _until(job: Job, done: Callable[[Any], bool], seconds: float = 60) -> None:
    view, end = job.view(), time.monotonic() + seconds
    while not done(view):
        if time.monotonic() > end or view.status is JobStatus.FAILED:
            raise RuntimeError(f"job stuck: {view.status.value} {view.message}")
        view = job.wait(view.version, 0.5)


class _Peak:
    """The most memory of its own that this process holds while the context lasts, read every few milliseconds."""

    def __enter__(self) -> _Peak:
        self.bytes, self._over = 0, threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        while not self._over.wait(0.01):
            self.bytes = max(self.bytes, used(os.getpid()).uss)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._reader.join()


def switching(folder: Path, switches: int = 20) -> Figure:
    """Peak memory while switching among three models, with room for one and a half, ÷ the budget.

    The memory is the process's own, unshared, as the kernel counts it, beyond what it holds after a first job whose model
    has been released again; the peak within a switch, with what loading takes besides, counts.
    """
    for factor, name in ((0.9, "one"), (1.1, "two")):
        shutil.copytree(SHIPPED, folder / "models" / name)
        weights = folder / "models" / name / "unet" / "diffusion_pytorch_model.safetensors"
        save_file({key: tensor * factor for key, tensor in load_file(weights).items()}, weights)
    budget = 72 * 2**20
    studio = Studio(
        StudioSettings(outputs=folder / "outputs", models=folder / "models", device="cpu", memory_budget=budget)
    )

    def use(model: str) -> None:
        values = {**request_for().to_json(), "model": model, "num_inference_steps": 1}
        _until(studio.submit("text_to_image", values), lambda view: view.status.final)

    try:
        use("emoji")
        studio.loader.release("emoji")
        give_back()
        before = used(os.getpid()).uss
        with _Peak() as peak:
            for i in range(switches):
                use(("emoji", "one", "two")[i % 3])
        rise, counted = peak.bytes - before, studio.cache.peak_bytes
    finally:
        studio.close()
    return Figure(
        "peak memory after switching 20 times among three models ÷ budget",
        rise / budget,
        "×",
        1.05,
        f"rise of the process {rise / 2**20:.0f} of {budget / 2**20:.0f} MiB; the cache counts {counted / 2**20:.0f} MiB",
    )


def backend_figures(studio: Studio, rounds: int = 7) -> list[Figure]:
    """Everything that needs no page."""
    with studio.model("emoji", Job("text_to_image", None)) as family:
        step = step_seconds(family)
        figures = [loop_against_stock(family, rounds), batch_of_eight(family, max(2, rounds // 2))]
    return [*figures, stop_to_free(studio, step, rounds), second_use(studio, 10)]


def markdown(figures: list[Figure]) -> str:
    """A table for the README."""
    rows = ["| figure | must reach | measured | how |", "| --- | --- | --- | --- |"]
    for figure in figures:
        must = "reported" if figure.must is None else f"≤ {_number(figure.must)} {figure.unit}"
        rows.append(f"| {figure.name} | {must} | {_number(figure.value)} {figure.unit} | {figure.detail} |")
    return "\n".join(rows)


def _number(value: float) -> str:
    return f"{value:.2f}" if value != int(value) and value < 20 else f"{value:,.0f}"

"""The studio's own figures, measured in one run: the loop against the stock pipeline, and the backend.

Run it as `python -m pipelines.benchmark studio`. Every speed is a ratio of medians of alternating runs, since
the machines it runs on are shared and noisy.
"""

from __future__ import annotations

import itertools
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
from pipelines.requests.encoding import decode
from pipelines.requests.limits import Limits
from pipelines.requests.text_to_image import ResolvedRun, build_run, resolve
from studio.backend import Studio, StudioSettings
from studio.benchmarks.figures import Figure, format_markdown, time_alternately
from studio.jobs.heap import give_back
from studio.jobs.job import Job, JobStatus
from studio.reliability.memory import measure_memory

__all__ = [
    "Figure",
    "build_request",
    "format_markdown",
    "measure_backend",
    "measure_switching",
    "time_alternately",
    "time_loop",
    "time_step",
]

PROMPT = "a fox on a blue background"
STEPS = 25


def build_request(seed: int = 0, **changes: object) -> Request:
    """Build the request that all figures use."""
    request = Request(
        prompt=PROMPT, num_inference_steps=STEPS, seed=seed, guidance=Choice("cfg", {"guidance_scale": 4.0})
    )
    return request.replace(**changes)


def time_loop(family: Family, resolved: ResolvedRun) -> float:
    """Time the bare loop in seconds, from the prompt to the decoded picture."""
    began = time.perf_counter()
    *_, step = denoise(build_run(resolved, family))
    decode(family, step.latents)
    return time.perf_counter() - began


def build_stock_pipeline(family: Family) -> Any:
    """Build diffusers' own pipeline on the same components, with the sampler of `build_request`."""
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


def time_stock(pipeline: Any, request: Request) -> float:
    """Time the stock pipeline in seconds for the same request."""
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


def compare_loop_with_stock(family: Family, rounds: int) -> Figure:
    """Measure our loop ÷ the stock pipeline."""
    resolved, pipeline = resolve(build_request(), family), build_stock_pipeline(family)
    ratio, loop_seconds, stock_seconds = time_alternately(
        lambda: time_loop(family, resolved), lambda: time_stock(pipeline, resolved.request), rounds
    )
    return Figure(
        "our loop ÷ the stock pipeline",
        ratio,
        "×",
        1.0,
        f"{loop_seconds:.2f} s against {stock_seconds:.2f} s, {STEPS} steps",
    )


def compare_batch_of_eight(family: Family, rounds: int) -> Figure:
    """Measure eight cells sharing a batch ÷ one after another."""
    runs = [
        resolve(build_request(sampler=Choice(key)), family)
        for key in ("dpmpp_2m", "dpmpp_1", "ddim", "euler", "euler_a", "unipc", "dpmpp_2m", "ddim")
    ]

    def time_shared() -> float:
        began = time.perf_counter()
        for _ in denoise_together([build_run(resolved, family) for resolved in runs]):
            pass
        return time.perf_counter() - began

    def time_separate() -> float:
        began = time.perf_counter()
        for resolved in runs:
            for _ in denoise(build_run(resolved, family)):
                pass
        return time.perf_counter() - began

    ratio, shared_seconds, separate_seconds = time_alternately(time_shared, time_separate, rounds)
    return Figure(
        "eight cells sharing a batch ÷ one after another",
        ratio,
        "×",
        None,
        f"{shared_seconds:.2f} s against {separate_seconds:.2f} s",
    )


def time_step(family: Family) -> float:
    """Return the median seconds of one guided step of the bare loop."""
    marks = [time.perf_counter()]
    for _ in denoise(build_run(resolve(build_request(), family), family)):
        marks.append(time.perf_counter())
    return statistics.median(b - a for a, b in itertools.pairwise(marks))


def time_stop(studio: Studio, step: float, rounds: int) -> Figure:
    """Measure the time from the stop to a free device, beyond one evaluation."""
    waits = []
    for i in range(rounds):
        job = studio.submit("text_to_image", {**build_request().to_json(), "num_inference_steps": 200})
        _wait_until(job, lambda view: bool(view.cells and view.cells[0].rows))
        time.sleep(step * (i + 0.5) / rounds)  # at every moment of an evaluation alike, not just before one
        began = time.perf_counter()
        job.cancel()
        _wait_until(job, lambda view: view.status.final)
        waits.append(time.perf_counter() - began)
    worst = max(waits)
    return Figure(
        "stop to device free",
        worst * 1000,
        "ms",
        (step + 0.05) * 1000,
        f"worst of {rounds}; one evaluation takes {step * 1000:.0f} ms",
    )


def time_second_use(studio: Studio, rounds: int) -> Figure:
    """Measure the second use of a loaded model."""
    durations = []
    for _ in range(rounds):
        began = time.perf_counter()
        with studio.model("emoji", Job("text_to_image", None)):
            durations.append(time.perf_counter() - began)
    return Figure(
        "second use of a loaded model", statistics.median(durations[1:]) * 1000, "ms", 50, f"median of {rounds - 1}"
    )


def _wait_until(job: Job, is_done: Callable[[Any], bool], seconds: float = 60) -> None:
    view, end = job.view(), time.monotonic() + seconds
    while not is_done(view):
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
            self.bytes = max(self.bytes, measure_memory(os.getpid()).uss)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._reader.join()


def measure_switching(folder: Path, switches: int = 20) -> Figure:
    """Measure peak memory while switching among three models, with room for one and a half, ÷ the budget.

    The memory is the process's own, unshared, as the kernel counts it, beyond what it holds after a first job whose
    model has been released again; the peak within a switch, with what loading takes besides, counts.
    """
    for factor, name in ((0.9, "one"), (1.1, "two")):
        shutil.copytree(SHIPPED, folder / "models" / name)
        weights = folder / "models" / name / "unet" / "diffusion_pytorch_model.safetensors"
        save_file({key: tensor * factor for key, tensor in load_file(weights).items()}, weights)
    budget = 72 * 2**20
    studio = Studio(
        StudioSettings(
            outputs=folder / "outputs",
            models=folder / "models",
            device="cpu",
            memory_budget=budget,
            limits=Limits(max_cached_bytes=0),
        )
    )

    def use(model: str) -> None:
        values = {**build_request().to_json(), "model": model, "num_inference_steps": 1}
        _wait_until(studio.submit("text_to_image", values), lambda view: view.status.final)

    try:
        use("emoji")
        studio.loader.release("emoji")
        give_back()
        before = measure_memory(os.getpid()).uss
        with _Peak() as peak:
            for i in range(switches):
                use(("emoji", "one", "two")[i % 3])
        rise, cached = peak.bytes - before, studio.cache.peak_bytes
    finally:
        studio.close()
    return Figure(
        "peak memory after switching 20 times among three models ÷ budget",
        rise / budget,
        "×",
        1.05,
        f"rise of the process {rise / 2**20:.0f} of {budget / 2**20:.0f} MiB; the cache counts {cached / 2**20:.0f} "
        "MiB",
    )


def measure_backend(studio: Studio, rounds: int = 7) -> list[Figure]:
    """Measure everything that needs no page."""
    with studio.model("emoji", Job("text_to_image", None)) as family:
        step = time_step(family)
        figures = [compare_loop_with_stock(family, rounds), compare_batch_of_eight(family, max(2, rounds // 2))]
    return [*figures, time_stop(studio, step, rounds), time_second_use(studio, 10)]

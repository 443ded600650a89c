"""A step's own arithmetic: everything but the network, against one evaluation of the shipped model."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from pipelines.benchmarks.sampler_runs import BASE, Bench
from pipelines.errors import StepwiseError
from pipelines.loop import denoise
from pipelines.samplers import SAMPLERS
from pipelines.text_to_image import assembled_run, resolve
from pipelines.types import Choice

__all__ = ["LIMIT", "STEPS", "overheads"]

STEPS, REPEATS, LIMIT = 20, 15, 0.02


class _Free:
    """The model with a network that costs nothing."""

    def __init__(self, family: Any, answer: torch.Tensor):
        self._family, self._answer = family, answer
        self.prediction_type, self.max_rows = family.prediction_type, family.max_rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        return self._answer


def overheads(bench: Bench) -> dict[str, Any]:
    """{"evaluation_ms", "samplers": {key: {"step_ms", "share"}}} of every sampler with one evaluation a step.

    One picture, guided; the least of several runs on both sides, since another program can only add to either. The
    loop's and the guidance's work count as the step's own.
    """
    part = bench.cases.part(0, 1)
    answer = bench.family.predict_raw(part.noise.repeat(2, 1, 1, 1), torch.full((2,), 500.0), _both(part))
    evaluation = _least(lambda: bench.family.predict_raw(part.noise.repeat(2, 1, 1, 1), torch.full((2,), 500.0), _both(part)))
    free, found = _Free(bench.family, answer), {}
    for method in SAMPLERS.fitting(bench.family.traits):
        if method.build().calls(STEPS) != STEPS:
            continue
        request = resolve(BASE.replace(sampler=Choice(method.key), num_inference_steps=STEPS), bench.family)

        def run(request: Any = request) -> None:
            for _ in denoise(assembled_run(request, free, (part.noise, part.source()), dict(part.conditionings))):
                pass

        try:
            step = _least(run) / STEPS
        except StepwiseError:
            continue
        found[method.key] = {"step_ms": round(step * 1e3, 4), "share": round(step / evaluation, 5)}
    return {"evaluation_ms": round(evaluation * 1e3, 3), "samplers": found,
            "median_share": round(statistics.median(row["share"] for row in found.values()), 5)}


def _both(part: Any) -> Any:
    conditionings = part.conditionings
    return type(conditionings["positive"]).cat([conditionings["negative"], conditionings["positive"]])


@torch.inference_mode()
def _least(work: Any) -> float:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)

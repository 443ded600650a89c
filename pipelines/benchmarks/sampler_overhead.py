"""A step's own arithmetic: everything but the network, against one evaluation of the shipped model."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from pipelines.benchmarks.sampler_runs import BASE, GUIDANCE_SCALE, Bench
from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import SettingsError
from pipelines.core.gradients import inference_mode
from pipelines.core.loop import Run, denoise
from pipelines.core.prediction import Conditioning
from pipelines.core.registry import Method
from pipelines.core.schedule import FlowSchedule, NoiseSchedule
from pipelines.core.types import Traits
from pipelines.guidance.cfg import Cfg, CfgSettings
from pipelines.learning.cases import Cases
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES

__all__ = ["DIFFUSION", "FLOW", "LIMIT", "STEPS", "free_run", "one_evaluation", "overheads"]

STEPS, REPEATS, LIMIT = 20, 15, 0.02

DIFFUSION, FLOW = Traits("sd", "epsilon", "unet"), Traits("sd3", "flow", "transformer")
"""The kinds of model that the samplers are measured on: each on the first that it fits."""


class _Free:
    """A network that costs nothing: it always gives the same answer."""

    max_rows = 0
    rows_together = 1

    def __init__(self, prediction_type: str, answer: torch.Tensor):
        self.prediction_type, self._answer = prediction_type, answer

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return self._answer


def one_evaluation() -> list[Method]:
    """Return the samplers whose next step costs one evaluation more, whatever their first steps cost."""
    samplers = [(method, method.build()) for method in SAMPLERS.values()]
    return [method for method, sampler in samplers if sampler.nfe(2 * STEPS) - sampler.nfe(STEPS) == STEPS]


def free_run(method: Method, part: Cases, noise_schedule: NoiseSchedule, answer: torch.Tensor) -> Run:
    """Return a guided run of a sampler with a network that costs nothing, on a flow schedule if it is for flow models
    only.

    Args:
        method: of the sampler table.
        part: one picture with its branches.
        noise_schedule: of a diffusion model.
        answer: (2, C, h, w), the network's, whatever it is asked.

    Raises:
        SettingsError: the sampler fits neither kind of model.
    """
    kinds = [traits for traits in (DIFFUSION, FLOW) if not method.fit(traits)]
    if not kinds:
        raise SettingsError(
            f"{method.label} fits neither of the models that steps are measured on: {method.fit(DIFFUSION)}."
        )
    schedule = FlowSchedule() if kinds[0].flow else noise_schedule
    levels = SCHEDULES[BASE.schedule.key].build().levels(schedule, STEPS)
    network = _Free(kinds[0].prediction_type, answer)
    denoiser = Denoiser(network, Cfg(CfgSettings(guidance_scale=GUIDANCE_SCALE)), part.conditionings)
    latents = part.noise * schedule.initial_scale(levels[0])
    return Run(denoiser, method.build(), levels, latents, part.source(), schedule)


def overheads(bench: Bench) -> dict[str, Any]:
    """Measure {"evaluation_ms", "samplers": {key: {"step_ms", "share"}}} of every sampler with one evaluation a step.

    One picture, guided, on one thread; the process's own time, since another program's turns on the same core would
    count for the longer of the two, and the least of several runs, since they can only add to either by emptying the
    caches. The loop's and the guidance's work count as the step's own.

    Raises:
        StepwiseError: one of them cannot be measured: a table that lacks it would say nothing about it.
    """
    part = bench.cases.part(0, 1)
    inputs = part.noise.repeat(2, 1, 1, 1), torch.full((2,), 500.0), _stack_branches(part)
    answer = bench.family.predict_raw(*inputs)
    evaluation, rows = _measure_least(lambda: bench.family.predict_raw(*inputs)), {}
    for method in one_evaluation():
        run = functools.partial(_run_free, method, part, bench.family.noise_schedule, answer)
        step = _measure_least(run) / STEPS
        rows[method.key] = {"step_ms": round(step * 1e3, 4), "share": round(step / evaluation, 5)}
    return {
        "evaluation_ms": round(evaluation * 1e3, 3),
        "samplers": rows,
        "median_share": round(statistics.median(row["share"] for row in rows.values()), 5),
    }


def _run_free(method: Method, part: Cases, noise_schedule: NoiseSchedule, answer: torch.Tensor) -> None:
    for _ in denoise(free_run(method, part, noise_schedule, answer)):
        pass


def _stack_branches(part: Cases) -> Conditioning:
    return Conditioning.cat([part.conditionings["negative"], part.conditionings["positive"]])


@inference_mode
def _measure_least(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        start_time = time.process_time()
        work()
        seconds.append(time.process_time() - start_time)
    return min(seconds)

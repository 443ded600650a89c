"""How fast each deterministic sampler converges, measured on Gaussian data in float64.

There the perfect denoiser and the exact solution of the probability-flow ODE are formulas, so no weights are needed
and nothing but the sampler's own error is left.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pipelines.denoiser import Conditioning, Denoiser
from pipelines.guidance.cfg import Unguided
from pipelines.loop import Run, denoise
from pipelines.noise import NoiseSource
from pipelines.samplers import SAMPLERS
from pipelines.samplers.base import Sampler, State, StepContext
from pipelines.schedule import CLEAN, FlowSchedule, Level, NoiseSchedule

__all__ = [
    "MEAN", "ORDERS", "VARIANCE", "CosineSchedule", "GaussianNetwork", "Order", "exact", "falls", "grid", "measured_order",
    "one_step", "orders", "primed_orders", "run_of",
]

MEAN, VARIANCE = 0.7, 0.3
"""Of the data, in every pixel."""


class CosineSchedule:
    """A smooth variance-preserving schedule: alpha = cos(a), sigma = sin(a), a linear in time."""

    num_train_timesteps, steps_offset, shift = 1000, 0, 1.0
    _low, _span = 0.005, 0.98 * math.pi / 2 / 1000

    def at(self, timestep: float) -> Level:
        angle = self._low + self._span * timestep
        return Level(math.cos(angle), math.sin(angle), timestep)

    def at_sigma_ve(self, sigma_ve: float) -> Level:
        return self.at((math.atan(sigma_ve) - self._low) / self._span)

    def network_time(self, fraction: float) -> float:
        return 1000 * fraction

    def initial_scale(self, level: Level) -> float:
        return 1.0


class GaussianNetwork:
    """The perfect denoiser of N(MEAN, VARIANCE) in any prediction type, in float64."""

    max_rows = 0
    rows_together = 1

    def __init__(self, noise_schedule: NoiseSchedule, prediction_type: str = "sample"):
        self.noise_schedule, self.prediction_type = noise_schedule, prediction_type
        self.batches: list[int] = []

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        self.batches.append(len(latents))
        times = timesteps.tolist()
        if len(set(times)) == 1:
            return self._row(latents, times[0])
        return torch.stack([self._row(row, time) for row, time in zip(latents, times, strict=True)])

    def _row(self, row: torch.Tensor, timestep: float) -> torch.Tensor:
        level = self.noise_schedule.at(timestep)
        a, s = level.alpha, level.sigma
        denoised = MEAN + VARIANCE * a * (row - a * MEAN) / (a**2 * VARIANCE + s**2)
        noise = s * (row - a * MEAN) / (a**2 * VARIANCE + s**2)
        return {"sample": denoised, "epsilon": noise, "v_prediction": a * noise - s * denoised,
                "flow": noise - denoised}[self.prediction_type]


def exact(latents: torch.Tensor, start: Level, end: Level) -> torch.Tensor:
    """The probability-flow ODE's solution: standardised values stay what they are."""
    def std(level: Level) -> float:
        return math.sqrt(level.alpha**2 * VARIANCE + level.sigma**2)

    return end.alpha * MEAN + std(end) / std(start) * (latents - start.alpha * MEAN)


def run_of(sampler: Sampler, levels: Sequence[Level], noise_schedule: NoiseSchedule, latents: torch.Tensor | None = None,
           seeds: Sequence[int] = (0,), prediction_type: str = "sample") -> Run:
    """A run of a sampler on the Gaussian; by default from nine values between -2 and 2."""
    if latents is None:
        latents = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    network = GaussianNetwork(noise_schedule, prediction_type)
    denoiser = Denoiser(network, Unguided(), {"positive": Conditioning()})
    return Run(denoiser, sampler, levels, latents, NoiseSource(seeds), noise_schedule)


def grid(noise_schedule: NoiseSchedule, num_steps: int, high: float = 900, low: float = 20, clean: bool = False) -> list[Level]:
    """Levels uniform in time, so that halving the step halves every step."""
    levels = [noise_schedule.at(float(time)) for time in np.linspace(high, low, num_steps + 1)]
    return [*levels, CLEAN] if clean else levels


def falls(errors: Sequence[float]) -> list[float]:
    """log2 of the fall from each error to the next."""
    return [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]


def orders(make_sampler: Callable[[], Sampler], noise_schedule: NoiseSchedule, counts: Sequence[int] = (40, 80, 160)) -> list[float]:
    """log2 of the error's fall at each doubling of the steps."""
    errors = []
    for count in counts:
        levels = grid(noise_schedule, count)
        run = run_of(make_sampler(), levels, noise_schedule)
        *_, last = denoise(run)
        errors.append((last.latents - exact(run.latents, levels[0], levels[-1])).abs().max().item())
    return falls(errors)


def primed_orders(make_sampler: Callable[[], Sampler], noise_schedule: NoiseSchedule, primed: int = 4,
                  counts: Sequence[int] = (40, 80, 160)) -> list[float]:
    """The same for the multistep formula alone: the first steps, of lower order, are put right exactly."""
    errors = []
    for count in counts:
        levels = grid(noise_schedule, count, high=850, low=100)
        run = run_of(make_sampler(), levels, noise_schedule)
        state = State(run.latents)
        for index, (level, next_level) in enumerate(zip(levels, levels[1:], strict=False)):
            state = one_step(run, state, level, next_level, StepContext(index, count, run.noise, noise_schedule))
            if index < primed:
                state = dataclasses.replace(state, latents=exact(run.latents, levels[0], next_level))
        errors.append((state.latents - exact(run.latents, levels[0], levels[-1])).abs().max().item())
    return falls(errors)


def one_step(run: Run, state: State, level: Level, next_level: Level, context: StepContext) -> State:
    """The state after one step of a run's sampler."""
    asking = run.sampler.step(state, level, next_level, context)
    query = next(asking)
    while True:
        try:
            query = asking.send(run.denoiser.predict(query.latents, query.level))
        except StopIteration as done:
            return done.value


@dataclasses.dataclass(frozen=True)
class Order:
    """What theory says of a sampler, and how it is measured.

    Attributes:
        theory: global order of the method.
        settings: under which; the table's defaults where they are empty.
        primed: whether the first steps, of lower order, are put right exactly.
        flow: whether the method is for flow models only.
    """

    theory: int
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    primed: bool = False
    flow: bool = False


ORDERS: Mapping[str, Order] = {
    "dpmpp_2m": Order(2), "dpmpp_2s": Order(2), "dpmpp_1": Order(1), "dpmpp_3m": Order(3),
    "unipc": Order(3, {"lower_order_final": False}), "deis": Order(2), "ddim": Order(1), "pndm": Order(2),
    "ipndm": Order(2, primed=True), "euler": Order(1), "heun": Order(2), "lms": Order(4, primed=True), "dpm2": Order(2),
    "flow_euler": Order(1, flow=True), "flow_heun": Order(2, flow=True), "lml": Order(2),
}
"""The deterministic samplers. PNDM's formulas stay of order two at any number of estimates; UniPC's corrector adds one."""


def measured_order(key: str) -> float:
    """The measured order of a sampler of `ORDERS`, from 80 to 160 steps, from 160 to 320 where it is above two."""
    known = ORDERS[key]
    schedule = FlowSchedule() if known.flow else CosineSchedule()
    measure, counts = primed_orders if known.primed else orders, (160, 320) if known.theory > 2 else (80, 160)
    return measure(lambda: SAMPLERS[key].build(known.settings), schedule, counts=counts)[-1]

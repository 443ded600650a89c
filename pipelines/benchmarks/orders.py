"""How fast each deterministic sampler converges, measured on Gaussian data in float64.

There the perfect denoiser and the exact solution of the probability-flow ODE are formulas, so no weights are needed
and nothing but the sampler's own error is left. Two orders are measured: that of the formula in the middle of a run,
which is what theory speaks of, and that of the whole run as the studio makes it, whose first steps have too few
estimates for the formula and whose last ones some samplers take with a lower one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.sampler import Sampler, State, StepContext
from pipelines.core.schedule import CLEAN, FlowSchedule, Level, NoiseSchedule
from pipelines.guidance.cfg import Unguided
from pipelines.samplers import SAMPLERS

__all__ = [
    "MEAN",
    "ORDERS",
    "SPREAD",
    "VARIANCE",
    "CosineSchedule",
    "GaussianNetwork",
    "Order",
    "exact",
    "falls",
    "formula_order",
    "grid",
    "one_step",
    "orders",
    "primed_orders",
    "run_of",
    "whole_run_order",
]

Variance = float | torch.Tensor

MEAN, VARIANCE = 0.7, 0.3
"""Of the data, in every pixel."""

SPREAD = torch.tensor([0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0], dtype=torch.float64).reshape(1, 3, 3)
"""Variances of data whose pixels differ: where one pixel's error changes its sign, and so says nothing of the order,
those of the others do not."""


class CosineSchedule:
    """Provides a smooth variance-preserving schedule: alpha = cos(a), sigma = sin(a), a linear in time."""

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
    """Computes the perfect denoiser of N(MEAN, VARIANCE) in any prediction type, in float64."""

    max_rows = 0
    rows_together = 1

    def __init__(self, noise_schedule: NoiseSchedule, prediction_type: str = "sample", variance: Variance = VARIANCE):
        self.noise_schedule, self.prediction_type, self.variance = noise_schedule, prediction_type, variance
        self.batches: list[int] = []

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        self.batches.append(len(latents))
        times = timesteps.tolist()
        if len(set(times)) == 1:
            return self._predict_row(latents, times[0])
        return torch.stack([self._predict_row(row, time) for row, time in zip(latents, times, strict=True)])

    def _predict_row(self, row: torch.Tensor, timestep: float) -> torch.Tensor:
        level = self.noise_schedule.at(timestep)
        a, s = level.alpha, level.sigma
        denoised = MEAN + self.variance * a * (row - a * MEAN) / (a**2 * self.variance + s**2)
        noise = s * (row - a * MEAN) / (a**2 * self.variance + s**2)
        return {
            "sample": denoised,
            "epsilon": noise,
            "v_prediction": a * noise - s * denoised,
            "flow": noise - denoised,
        }[self.prediction_type]


def exact(latents: torch.Tensor, start: Level, end: Level, variance: Variance = VARIANCE) -> torch.Tensor:
    """Compute the probability-flow ODE's solution: standardized values stay what they are."""

    def std(level: Level) -> Variance:
        return (level.alpha**2 * variance + level.sigma**2) ** 0.5

    return end.alpha * MEAN + std(end) / std(start) * (latents - start.alpha * MEAN)


def run_of(
    sampler: Sampler,
    levels: Sequence[Level],
    noise_schedule: NoiseSchedule,
    latents: torch.Tensor | None = None,
    seeds: Sequence[int] = (0,),
    prediction_type: str = "sample",
    variance: Variance = VARIANCE,
) -> Run:
    """Build a run of a sampler on the Gaussian; by default from nine values between -2 and 2."""
    if latents is None:
        latents = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    network = GaussianNetwork(noise_schedule, prediction_type, variance)
    denoiser = Denoiser(network, Unguided(), {"positive": Conditioning()})
    return Run(denoiser, sampler, levels, latents, NoiseSource(seeds), noise_schedule)


def grid(
    noise_schedule: NoiseSchedule, num_steps: int, high: float = 900, low: float = 20, clean: bool = False
) -> list[Level]:
    """Return levels uniform in time, so that halving the step halves every step."""
    levels = [noise_schedule.at(float(time)) for time in np.linspace(high, low, num_steps + 1)]
    return [*levels, CLEAN] if clean else levels


def falls(errors: Sequence[float]) -> list[float]:
    """Compute log2 of the fall from each error to the next."""
    return [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]


def orders(
    make_sampler: Callable[[], Sampler],
    noise_schedule: NoiseSchedule,
    counts: Sequence[int] = (40, 80, 160),
    variance: Variance = VARIANCE,
) -> list[float]:
    """Compute log2 of the error's fall at each doubling of the steps."""
    errors = []
    for count in counts:
        levels = grid(noise_schedule, count)
        run = run_of(make_sampler(), levels, noise_schedule, variance=variance)
        *_, last = denoise(run)
        errors.append((last.latents - exact(run.latents, levels[0], levels[-1], variance)).abs().max().item())
    return falls(errors)


def primed_orders(
    make_sampler: Callable[[], Sampler],
    noise_schedule: NoiseSchedule,
    primed: int = 4,
    counts: Sequence[int] = (40, 80, 160),
    variance: Variance = VARIANCE,
) -> list[float]:
    """Return the same for the multistep formula alone: the first steps, of lower order, are put right exactly.

    So is what a corrector starts the next step from, or its error would be the start's.
    """
    errors = []
    for count in counts:
        levels = grid(noise_schedule, count, high=850, low=100)
        run = run_of(make_sampler(), levels, noise_schedule, variance=variance)
        state = State(run.latents)
        for index, (level, next_level) in enumerate(itertools.pairwise(levels)):
            state = one_step(run, state, level, next_level, StepContext(index, count, run.noise, noise_schedule))
            if index < primed:
                state = _put_right(
                    state, functools.partial(exact, run.latents, levels[0], variance=variance), next_level
                )
        errors.append((state.latents - exact(run.latents, levels[0], levels[-1], variance)).abs().max().item())
    return falls(errors)


def _put_right(state: State, solution: Callable[[Level], torch.Tensor], level: Level) -> State:
    """Replace the latents of a state, and those that a corrector's last stride began with, by the exact ones."""
    memory = tuple(
        dataclasses.replace(part, latents=solution(part.level)) if hasattr(part, "latents") else part
        for part in state.memory
    )
    return dataclasses.replace(state, latents=solution(level), memory=memory)


def one_step(run: Run, state: State, level: Level, next_level: Level, context: StepContext) -> State:
    """Return the state after one step of a run's sampler."""
    asking = run.sampler.step(state, level, next_level, context)
    query = next(asking)
    while True:
        try:
            query = asking.send(run.denoiser.predict(query.latents, query.level))
        except StopIteration as done:
            return done.value


@dataclasses.dataclass(frozen=True)
class Order:
    """Tells what theory says of a sampler's formula, and under which settings.

    Attributes:
        theory: global order of the formula.
        settings: what a person sets; the table's defaults where they are empty.
        flow: whether the method is for flow models only.
    """

    theory: int
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    flow: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of steps between which the formula's error is compared."""
        return (160, 320) if self.theory > 2 else (80, 160)

    @property
    def noise_schedule(self) -> NoiseSchedule:
        return FlowSchedule() if self.flow else CosineSchedule()


def _list_by_order(*theory: int) -> tuple[Order, ...]:
    return tuple(Order(one, {"order": number}) for number, one in enumerate(theory, 1))


def _build_deterministic(predictor: int, corrector: int) -> Order:
    settings = {"tau": 0.0, "predictor_order": predictor, "corrector_order": corrector}
    return Order(max(predictor, corrector), settings)


ORDERS: Mapping[str, tuple[Order, ...]] = {
    "dpmpp_2m": (Order(2),),
    "dpmpp_2s": (Order(2),),
    "dpmpp_1": (Order(1),),
    "dpmpp_3m": (Order(3),),
    "unipc": (*_list_by_order(2, 3, 4), *(Order(one, {"order": one, "corrector": False}) for one in (1, 2, 3))),
    "deis": _list_by_order(1, 2, 3),
    "sa_solver": tuple(_build_deterministic(one, other) for one in (1, 2, 3) for other in (0, one + 1)),
    "ddim": (Order(1),),
    "pndm": tuple(Order(2, {"start": start}) for start in ("heun", "runge-kutta")),
    "ipndm": _list_by_order(1, 2, 2, 2),
    "euler": (Order(1),),
    "heun": (Order(2),),
    "lms": _list_by_order(1, 2, 3, 4),
    "dpm2": (Order(2),),
    "flow_euler": (Order(1, flow=True),),
    "flow_heun": (Order(2, flow=True),),
    "lml": (Order(2),),
}
"""The deterministic samplers, at each order they can be set to. PNDM's formulas stay of order two at any number of
estimates; UniPC's corrector adds one, and SA-Solver's, with one estimate more than its predictor has, does too."""


def formula_order(key: str, theory: Order) -> float:
    """Return the measured order of a sampler's formula: no start, whose steps are put right exactly, and no lowered
    end."""
    lowered = {"lower_order_final"} & {field.name for field in dataclasses.fields(SAMPLERS[key].settings)}
    settings = {**theory.settings, **dict.fromkeys(lowered, False)}
    return primed_orders(
        lambda: SAMPLERS[key].build(settings), theory.noise_schedule, counts=theory.counts, variance=SPREAD
    )[-1]


def whole_run_order(key: str, theory: Order) -> float:
    """Return the measured order of a whole run with these settings and the sampler's own start and end."""
    return orders(lambda: SAMPLERS[key].build(theory.settings), theory.noise_schedule, (160, 320), SPREAD)[-1]

"""PNDM: a linear multistep method on the noise estimate, with DDIM's update as its transfer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Sequence

import torch

from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import PastNoise, State, StepContext, Stepping, interpolate
from pipelines.core.schedule import Level
from pipelines.samplers.integral_weights import integral_weights

__all__ = ["Pndm", "PndmSettings", "adams_weights", "combined_noise", "transfer"]


@dataclasses.dataclass(frozen=True)
class PndmSettings:
    """The settings of PNDM."""

    start: str = setting(
        "heun",
        "Heun costs one evaluation more in one step, runge-kutta three in three steps.",
        choices=("heun", "runge-kutta"),
    )


def transfer(latents: torch.Tensor, level: Level, next_level: Level, noise: torch.Tensor) -> torch.Tensor:
    """Compute x' = alpha' * (x - sigma * eps) / alpha + sigma' * eps.

    Source: Liu et al., PNDM, arXiv:2202.09778, section 3 (the transfer part).
    """
    return next_level.alpha / level.alpha * (latents - level.sigma * noise) + next_level.sigma * noise


def combined_noise(history: Sequence[PastNoise], next_level: Level) -> torch.Tensor:
    """Compute the mean over the step of the polynomial in the network's time through the last estimates.

    At equal distances the weights are Adams-Bashforth's (3, -1) / 2, (23, -16, 5) / 12, (55, -59, 37, -9) / 24.
    Of estimates at one time, as ComfyUI's whole times give close levels, the newest counts.
    """
    newest = history[0]
    width = next_level.timestep - newest.level.timestep
    by_time: dict[float, PastNoise] = {}
    for past in history:
        by_time.setdefault(past.level.timestep, past)
    apart = list(by_time.values())
    if len(apart) == 1 or width == 0:
        return newest.noise
    weights = integral_weights([past.level.timestep - newest.level.timestep for past in apart], width)
    terms = (weight / width * past.noise for weight, past in zip(weights, apart, strict=True))
    return sum(terms, torch.zeros_like(newest.noise))


_ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def adams_weights(count: int) -> tuple[float, ...]:
    """Find Adams-Bashforth's weights of the last 1 to 4 values at equal distances, the newest first."""
    return _ADAMS[count - 1]


class Pndm:
    """PNDM is pseudo numerical methods: PLMS after a start of Heun's or of Runge and Kutta's kind.

    Of second order: the mean is taken in time, but the transfer weights the noise by sigma / alpha. A start step
    that is the last one, or from pure noise, is DDIM's.

    Source: Liu et al., Pseudo numerical methods for diffusion models on manifolds, arXiv:2202.09778, section 3
    (F-PNDM, start "runge-kutta") and its second-order form (S-PNDM), whose first step is the start "heun" that
    Stable Diffusion uses, followed by the fourth-order PLMS.
    Differs: the weights follow the real distances in time, so schedules that are not uniform keep the order;
    diffusers uses those of equal distances on every schedule.
    """

    multistep = 4

    def __init__(self, settings: PndmSettings = PndmSettings()):
        self.runge_kutta = settings.start == "runge-kutta"

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        first = yield Query(state.latents, level)
        if math.isinf(level.sigma_ve):
            return State(interpolate(first, next_level), first.denoised)
        history = (PastNoise(level, first.noise), *state.memory)[: self.multistep]
        if len(history) > self.start_steps:
            noise = self.combine(history, next_level)
        elif next_level.sigma == 0:
            noise = first.noise
        else:
            start = self._average_runge_kutta if self.runge_kutta else self._average_heun
            noise = yield from start(state.latents, level, next_level, first.noise, context)
        return State(transfer(state.latents, level, next_level, noise), first.denoised, memory=history)

    def combine(self, history: Sequence[PastNoise], next_level: Level) -> torch.Tensor:
        """Find the estimate of eps that the step takes, of those so far, the newest first."""
        return combined_noise(history, next_level)

    @property
    def start_steps(self) -> int:
        return 3 if self.runge_kutta else 1

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        start_count = min(self.start_steps, num_steps - ends_clean)
        return num_steps + start_count * (3 if self.runge_kutta else 1)

    @staticmethod
    def _average_heun(
        latents: torch.Tensor, level: Level, next_level: Level, noise: torch.Tensor, context: StepContext
    ) -> Generator[Query, Prediction, torch.Tensor]:
        end = yield Query(transfer(latents, level, next_level, noise), next_level)
        return (noise + end.noise) / 2

    @staticmethod
    def _average_runge_kutta(
        latents: torch.Tensor, level: Level, next_level: Level, noise: torch.Tensor, context: StepContext
    ) -> Generator[Query, Prediction, torch.Tensor]:
        middle = context.noise_schedule.at((level.timestep + next_level.timestep) / 2)
        second = yield Query(transfer(latents, level, middle, noise), middle)
        third = yield Query(transfer(latents, level, middle, second.noise), middle)
        fourth = yield Query(transfer(latents, level, next_level, third.noise), next_level)
        return (noise + 2 * second.noise + 2 * third.noise + fourth.noise) / 6

"""TCD: the sampler of trajectory consistency distillation."""

from __future__ import annotations

import dataclasses
import math

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import State, StepContext, Stepping, interpolate
from pipelines.core.schedule import Level
from pipelines.samplers.exponential_adams import with_fresh_noise

__all__ = ["Tcd", "TcdSettings"]


@dataclasses.dataclass(frozen=True)
class TcdSettings:
    """The settings of TCD."""

    gamma: float = setting(
        0.3,
        "Share of the way that is denoised too far and noised again: 0 is DDIM, 1 the most.",
        low=0,
        high=1,
        step=0.05,
        label="gamma (eta)",
    )


class Tcd:
    """TCD goes past the next level to s = (1 - gamma) * t', then back up to it with fresh noise.

    Meant for distilled weights (TCD, Hyper-SD); on others gamma 0 is DDIM. gamma is called eta in diffusers.

    Source: Zheng et al., Trajectory consistency distillation, arXiv:2402.19159, strategic stochastic
    sampling.
    Differs: the last step goes to zero noise where the schedule ends there; diffusers always ends at time 0.
    """

    def __init__(self, settings: TcdSettings = TcdSettings()):
        self.gamma = settings.gamma

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction = yield Query(state.latents, level)
        if self.gamma == 0 or next_level.sigma == 0:
            return State(interpolate(prediction, next_level), prediction.denoised)
        past_it = context.noise_schedule.at(float(math.floor((1 - self.gamma) * next_level.timestep)))
        ratio = next_level.alpha / past_it.alpha
        std = math.sqrt(max(0.0, next_level.sigma**2 - (ratio * past_it.sigma) ** 2))
        return State(with_fresh_noise(ratio * interpolate(prediction, past_it), std, context), prediction.denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps

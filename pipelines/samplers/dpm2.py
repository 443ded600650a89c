"""DPM2 and DPM2 a: the midpoint rule of k-diffusion, plain and ancestral."""

from __future__ import annotations

import math

from pipelines.core.prediction import Query
from pipelines.core.registry import NoSettings
from pipelines.core.sampler import State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.samplers.ddim import AncestralSettings, ancestral_step, fresh_noise
from pipelines.samplers.exponential_adams import with_fresh_noise

__all__ = ["Dpm2", "Dpm2Ancestral"]


class Dpm2:
    """DPM2 evaluates at each level and once in between, at the geometric mean of the two s = sigma / alpha.

    y' = y + (s' - s) * eps_hat of that middle, with y = x / alpha. A step from pure
    noise and the step to zero noise have no such middle and are of first order.

    Source: Lu et al., DPM-Solver, arXiv:2206.00927, algorithm 1, as k-diffusion's `sample_dpm_2` has it.
    """

    eta = 0.0

    def __init__(self, settings: NoSettings = NoSettings()):
        pass

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        first = yield Query(state.latents, level)
        fresh = fresh_noise(level, next_level, self.eta)
        down = math.sqrt(max(0.0, next_level.sigma**2 - fresh**2)) / next_level.alpha if fresh else next_level.sigma_ve
        if down == 0 or math.isinf(level.sigma_ve):
            return State(ancestral_step(first, level, next_level, self.eta, context), first.denoised)
        middle = context.noise_schedule.at_sigma_ve(math.sqrt(level.sigma_ve * down))
        halfway = middle.alpha * first.denoised + middle.sigma * first.noise
        second = yield Query(halfway, middle)
        mean = next_level.alpha * (state.latents / level.alpha + (down - level.sigma_ve) * second.noise)
        return State(with_fresh_noise(mean, fresh, context), first.denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return 2 * num_steps - ends_clean


class Dpm2Ancestral(Dpm2):
    """DPM2 a goes to the level below the next from which fresh noise leads back up to it; with eta 0 it is DPM2.

    Source: k-diffusion's `sample_dpm_2_ancestral`.
    """

    def __init__(self, settings: AncestralSettings = AncestralSettings()):
        self.eta = settings.eta

"""SDE-DPM-Solver++: the single-step and the two-step form with fresh noise in every step."""

from __future__ import annotations

import dataclasses
import math

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Past, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.samplers.dpmpp import DpmSolver1, DpmSolver2S, exponential_step, kept_share, two_step_data
from pipelines.samplers.exponential_adams import fresh_std, with_fresh_noise

__all__ = ["DpmSolver2MSde", "DpmSolverSde", "SdeSettings"]


@dataclasses.dataclass(frozen=True)
class SdeSettings:
    """The settings of the SDE solvers."""

    eta: float = setting(
        1.0,
        "Share of fresh noise in each step: 1 is the full SDE, 0 is deterministic.",
        low=0,
        high=1,
        step=0.05,
        label="eta",
    )


class DpmSolver2MSde(DpmSolver1):
    """SDE-DPM-Solver++(2M) has the data of 2M, and fresh noise; with eta 0 it is 2M itself.

    Source: Lu et al., DPM-Solver++, arXiv:2211.01095, section 4 (SDE-DPM-Solver++(2M)); eta as in k-diffusion's
    `dpmpp_2m_sde` with the midpoint rule.
    """

    def __init__(self, settings: SdeSettings = SdeSettings()):
        self.eta = settings.eta

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        denoised = (yield Query(state.latents, level)).denoised
        data = two_step_data(denoised, level, next_level, state.history)
        mean = exponential_step(state.latents, level, next_level, data, self.eta)
        latents = with_fresh_noise(mean, fresh_std(level, next_level, self.eta), context, (level, next_level))
        return State(latents, denoised, (Past(level, denoised),))


class DpmSolverSde(DpmSolver2S):
    """SDE-DPM-Solver++(2S) evaluates halfway in lambda too, twice a step; with eta 0 it is 2S itself.

    A step from pure noise and the step to zero noise have no middle and are of first order.

    Source: Lu et al., arXiv:2211.01095, section 4; the steps of k-diffusion's `dpmpp_sde` with r = 1/2.
    Differs: k-diffusion takes the noise of the half step and of the whole step from a Brownian tree in sigma.
    Here the whole step's noise is the half step's, carried on by the equation, and a second draw, which is the
    two noises' exact joint law and depends on nothing but the sample's generator; a source that follows a Brownian
    path is asked for both, as there.
    """

    def __init__(self, settings: SdeSettings = SdeSettings()):
        self.eta = settings.eta

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        latents, eta = state.latents, self.eta
        denoised = (yield Query(latents, level)).denoised
        whole = fresh_std(level, next_level, eta)
        if not (math.isfinite(next_level.lam) and math.isfinite(level.lam)):
            mean = exponential_step(latents, level, next_level, denoised, eta)
            return State(with_fresh_noise(mean, whole, context, (level, next_level)), denoised)
        middle = context.noise_schedule.at_sigma_ve(math.exp(-(level.lam + next_level.lam) / 2))
        halfway, half = exponential_step(latents, level, middle, denoised, eta), fresh_std(level, middle, eta)
        if half:
            early = context.noise.between(latents, level, middle)
            halfway = halfway + half * early
        data = (yield Query(halfway, middle)).denoised
        result = exponential_step(latents, level, next_level, data, eta)
        if context.noise.follows_path:
            result = with_fresh_noise(result, whole, context, (level, next_level))
        elif half:
            carried = kept_share(middle, next_level, eta) * half
            result = result + carried * early + math.sqrt(max(0.0, whole**2 - carried**2)) * context.noise(latents)
        return State(result, denoised)

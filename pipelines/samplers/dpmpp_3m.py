"""DPM-Solver++(3M) and its SDE form: third order from the last three estimates, one evaluation a step."""

from __future__ import annotations

import math

from pipelines.core.prediction import Query
from pipelines.core.registry import NoSettings
from pipelines.core.sampler import Past, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.samplers.dpmpp import exponential_step, two_step_data
from pipelines.samplers.dpmpp_sde import SdeSettings
from pipelines.samplers.exponential_adams import adams_step, finite_history, fresh_std, with_fresh_noise

__all__ = ["DpmSolver3M", "DpmSolver3MSde"]


class DpmSolver3M:
    """DPM-Solver++(3M) takes the estimate of x0 as a parabola in lambda through its last three values, integrated
    exactly.

    The first two steps are those of 2M, the step to zero noise is of first order.

    Source: Lu et al., DPM-Solver++, arXiv:2211.01095, section 4, third order.
    Differs: the authors' code and those that follow it (k-diffusion, diffusers) give the second derivative half
    its weight, because they take a divided difference for a derivative. That lowers the order to two; with the
    exact weight here it is three. diffusers' SDE form has a wrong sign there too, and is of first order.
    """

    def __init__(self, settings: NoSettings | SdeSettings = NoSettings()):
        self.eta = getattr(settings, "eta", 0.0)

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        denoised = (yield Query(state.latents, level)).denoised
        history = finite_history(Past(level, denoised), state.history, 3)
        if len(history) == 3 and math.isfinite(next_level.lam):
            mean = adams_step(state.latents, level, next_level, history, self.eta)
        else:
            data = two_step_data(denoised, level, next_level, history[1:])
            mean = exponential_step(state.latents, level, next_level, data, self.eta)
        latents = with_fresh_noise(mean, fresh_std(level, next_level, self.eta), context, (level, next_level))
        return State(latents, denoised, history)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


class DpmSolver3MSde(DpmSolver3M):
    """SDE-DPM-Solver++(3M) is the same with a share of fresh noise in each step; without it, it is 3M itself.

    Source: the third-order form of Lu et al., arXiv:2211.01095, section 4 (SDE-DPM-Solver++), as k-diffusion's
    `dpmpp_3m_sde`, with the exact weights.
    """

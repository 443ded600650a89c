"""DPM-Solver++: exponential integrators for the data prediction, of order one and two."""

from __future__ import annotations

import math

import torch

from pipelines.core.prediction import Query
from pipelines.core.registry import NoSettings
from pipelines.core.sampler import Past, State, StepContext, Stepping
from pipelines.core.schedule import Level

__all__ = ["DpmSolver1", "DpmSolver2M", "DpmSolver2S", "exponential_step", "kept_share", "two_step_data"]


def kept_share(level: Level, next_level: Level, eta: float) -> float:
    """Compute e^(-eta * h) * sigma' / sigma: what is left of the latents after a step with a share eta of fresh noise.

    Source: Xue et al., SA-Solver, arXiv:2309.05019, section 4, with tau^2 = eta; eta 0 is the ODE.
    """
    share = next_level.sigma / level.sigma
    return share * math.exp(-eta * (next_level.lam - level.lam)) if eta else share


def exponential_step(
    latents: torch.Tensor, level: Level, next_level: Level, data: torch.Tensor, eta: float = 0.0
) -> torch.Tensor:
    """Compute x' = e^(-eta * h) * (sigma' / sigma) * x - alpha' * (e^(-(1 + eta) * h) - 1) * D: exact for constant D.

    h = lambda' - lambda. Finite at both ends: from pure noise and to a clean sample h is infinite and e^(-h)
    is zero. With eta > 0 it is the mean of the stochastic step.

    Source: Lu et al., DPM-Solver++, arXiv:2211.01095, equation 9.
    """
    h = next_level.lam - level.lam
    return kept_share(level, next_level, eta) * latents - next_level.alpha * math.expm1(-(1 + eta) * h) * data


def two_step_data(denoised: torch.Tensor, level: Level, next_level: Level, history: tuple[Past, ...]) -> torch.Tensor:
    """Compute D = x0_hat + h / (2 * h_past) * (x0_hat - x0_hat_past): the estimate extrapolated to the step's middle.

    Without a past, from pure noise and to zero noise it is the estimate itself: there h is infinite and the
    extrapolation has no meaning.

    Source: Lu et al., arXiv:2211.01095, algorithm 2.
    """
    if not history or not math.isfinite(next_level.lam):
        return denoised
    past = history[0]
    h, h_past = next_level.lam - level.lam, level.lam - past.level.lam
    return denoised + h / (2 * h_past) * (denoised - past.denoised)


class DpmSolver1:
    """DPM-Solver++(1) is DDIM with eta 0.

    Source: Lu et al., arXiv:2211.01095, section 4.
    """

    def __init__(self, settings: NoSettings = NoSettings()):
        pass

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction = yield Query(state.latents, level)
        latents = exponential_step(state.latents, level, next_level, prediction.denoised)
        return State(latents, prediction.denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


class DpmSolver2M(DpmSolver1):
    """DPM-Solver++(2M) is of second order from the last two estimates, one evaluation a step.

    The first step, a step from pure noise and the step to zero noise are of first order.

    Source: Lu et al., arXiv:2211.01095, algorithm 2.
    """

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        denoised = (yield Query(state.latents, level)).denoised
        data = two_step_data(denoised, level, next_level, state.history)
        latents = exponential_step(state.latents, level, next_level, data)
        return State(latents, denoised, (Past(level, denoised),))


class DpmSolver2S(DpmSolver1):
    """DPM-Solver++(2S) is of second order from an evaluation halfway in lambda, two evaluations a step.

    A step from pure noise and the step to zero noise have no middle in lambda and are of first order.

    Source: Lu et al., arXiv:2211.01095, algorithm 1 with r_i = 1/2.
    """

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        denoised = (yield Query(state.latents, level)).denoised
        data = denoised
        if math.isfinite(next_level.lam) and math.isfinite(level.lam):
            middle = context.noise_schedule.at_sigma_ve(math.exp(-(level.lam + next_level.lam) / 2))
            halfway = exponential_step(state.latents, level, middle, denoised)
            data = (yield Query(halfway, middle)).denoised
        return State(exponential_step(state.latents, level, next_level, data), denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return 2 * num_steps - ends_clean

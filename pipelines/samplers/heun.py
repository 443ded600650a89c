"""Heun's second-order method."""

from __future__ import annotations

import math

import torch

from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import NoSettings
from pipelines.core.sampler import State, StepContext, Stepping, interpolate
from pipelines.core.schedule import Level

__all__ = ["FlowHeun", "Heun"]


class Heun:
    """Heun takes the trapezoidal rule in sigma / alpha: two evaluations a step, one in a last step to zero noise.

    With y = x / alpha and s = sigma / alpha the ODE is dy/ds = eps_hat. A step from pure noise, where s is
    infinite, is of first order.

    Source: Karras et al., arXiv:2206.00364, algorithm 2 without churn.
    """

    in_sigma = True
    """Whether the rule's variable is sigma / alpha, which has no start without signal."""

    def __init__(self, settings: NoSettings = NoSettings()):
        pass

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        first = yield Query(state.latents, level)
        euler = interpolate(first, next_level)
        if next_level.sigma == 0 or (self.in_sigma and math.isinf(level.sigma_ve)):
            return State(euler, first.denoised)
        second = yield Query(euler, next_level)
        return State(self.trapezoid(state.latents, level, next_level, first, second), first.denoised)

    @staticmethod
    def trapezoid(
        latents: torch.Tensor, level: Level, next_level: Level, first: Prediction, second: Prediction
    ) -> torch.Tensor:
        """Compute y' = y + (s' - s) * (eps_hat + eps_hat') / 2, then x' = alpha' * y'."""
        span = next_level.sigma_ve - level.sigma_ve
        return next_level.alpha * (latents / level.alpha + span * (first.noise + second.noise) / 2)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return 2 * num_steps - ends_clean


class FlowHeun(Heun):
    """Flow Heun takes the trapezoidal rule in the flow's own time, dx/dt = v = eps_hat - x0_hat, which begins at alpha
    = 0.

    Source: Esser et al., arXiv:2403.03206, equation 1, integrated by Heun's method.
    """

    in_sigma = False

    @staticmethod
    def trapezoid(
        latents: torch.Tensor, level: Level, next_level: Level, first: Prediction, second: Prediction
    ) -> torch.Tensor:
        velocity = (first.noise - first.denoised + second.noise - second.denoised) / 2
        return latents + (next_level.sigma - level.sigma) * velocity

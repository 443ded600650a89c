"""LMS: linear multistep in sigma / alpha."""

from __future__ import annotations

import dataclasses
import math

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import PastNoise, State, StepContext, Stepping, interpolate
from pipelines.core.schedule import Level
from pipelines.samplers.integral_weights import integral_weights

__all__ = ["Lms", "LmsSettings"]


@dataclasses.dataclass(frozen=True)
class LmsSettings:
    """The settings of LMS."""

    order: int = setting(
        4, "How many estimates are used; 1 is Euler. Untouched, it fits itself to fewer steps.", low=1, high=4, step=1
    )


class Lms:
    """LMS is Adams-Bashforth for dy/ds = eps_hat with y = x / alpha and s = sigma / alpha, at any distances.

    The first steps use the estimates there are. A step from pure noise is of first order: its s is infinite.

    Source: k-diffusion's `sample_lms`, which integrates the Lagrange polynomials numerically; the weights here
    are exact. It is rhoAB-DEIS of Zhang & Chen, arXiv:2204.13902.
    """

    def __init__(self, settings: LmsSettings = LmsSettings()):
        self.order = settings.order

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction = yield Query(state.latents, level)
        if math.isinf(level.sigma_ve):
            return State(interpolate(prediction, next_level), prediction.denoised)
        history = (PastNoise(level, prediction.noise), *state.memory)[: self.order]
        if len(history) == 1:
            return State(interpolate(prediction, next_level), prediction.denoised, memory=history)
        nodes = [past.level.sigma_ve - level.sigma_ve for past in history]
        weights = integral_weights(nodes, next_level.sigma_ve - level.sigma_ve)
        latents = next_level.alpha / level.alpha * state.latents
        for weight, past in zip(weights, history, strict=True):
            latents = latents + next_level.alpha * weight * past.noise
        return State(latents, prediction.denoised, memory=history)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps

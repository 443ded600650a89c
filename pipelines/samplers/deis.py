"""DEIS: Adams-Bashforth on the noise estimate with exact exponential weights."""

from __future__ import annotations

import dataclasses
import math

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import PastNoise, State, StepContext, Stepping, interpolate
from pipelines.core.schedule import Level
from pipelines.samplers.integral_weights import integral_weights

__all__ = ["Deis", "DeisSettings"]


@dataclasses.dataclass(frozen=True)
class DeisSettings:
    """The settings of DEIS."""

    order: int = setting(
        2, "How many estimates are used; 1 is DDIM. Untouched, it fits itself to fewer steps.", low=1, high=3, step=1
    )


class Deis:
    """DEIS takes eps_hat as a polynomial in lambda through its last values, integrated exactly over sigma / alpha.

    y' = y - e^(-lambda) * integral of e^(-u) * eps_hat(lambda + u) du over u from 0 to h, with y = x / alpha. A
    step from pure noise and the step to zero noise are of first order: there h is infinite.

    Source: Zhang & Chen, Fast sampling with exponential integrator, arXiv:2204.13902, section 3, ingredients
    1 to 3, with the polynomial in log rho = -lambda, as diffusers' DEISMultistepScheduler has it.
    Differs: diffusers writes the weights as a difference of large terms, which costs order 3 its accuracy from
    about 100 steps on; here they come from moments that do not cancel. The last steps keep their order.
    """

    def __init__(self, settings: DeisSettings = DeisSettings()):
        self.order = settings.order

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction = yield Query(state.latents, level)
        if math.isinf(level.lam):
            return State(interpolate(prediction, next_level), prediction.denoised)
        history = (PastNoise(level, prediction.noise), *state.memory)[: self.order]
        if len(history) == 1 or math.isinf(next_level.lam):
            return State(interpolate(prediction, next_level), prediction.denoised, memory=history)
        nodes = [past.level.lam - level.lam for past in history]
        weights = integral_weights(nodes, next_level.lam - level.lam, 1.0)
        latents = next_level.alpha / level.alpha * state.latents
        for weight, past in zip(weights, history, strict=True):
            latents = latents - next_level.alpha * level.sigma_ve * weight * past.noise
        return State(latents, prediction.denoised, memory=history)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps

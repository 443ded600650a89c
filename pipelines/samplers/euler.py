"""Euler's method on the probability-flow ODE."""

from __future__ import annotations

from pipelines.core.prediction import Query
from pipelines.core.registry import NoSettings
from pipelines.core.sampler import State, StepContext, Stepping, interpolate
from pipelines.core.schedule import Level

__all__ = ["Euler"]


class Euler:
    """Euler takes one first-order step: dx = eps_hat * d(sigma / alpha), or dx = v * dt for a flow model.

    At the same noise levels this is DDIM with eta 0 and DPM-Solver++(1): the three names are kept because
    people look for them. What differs in other programs are the levels they choose.

    Source: Karras et al., arXiv:2206.00364, algorithm 2 without churn; Liu et al., arXiv:2209.03003.
    """

    def __init__(self, settings: NoSettings = NoSettings()):
        pass

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction = yield Query(state.latents, level)
        return State(interpolate(prediction, next_level), prediction.denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps

"""Fixed-point inversion: each step of DDIM solved backwards, not only guessed."""

from __future__ import annotations

import dataclasses

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping, interpolate
from pipelines.core.schedule import Level
from pipelines.inversions.ddim import DdimInversion, ReverseDdim

__all__ = ["FixedPointInversion", "FixedPointSettings", "SolvedStep"]


@dataclasses.dataclass(frozen=True)
class FixedPointSettings:
    """The settings of fixed-point inversion."""

    iterations: int = setting(5, "Evaluations of each step; 1 is DDIM inversion.", low=1, high=20, step=1)
    strength: float = setting(
        1.0, "Share of the steps that are inverted: less keeps more of the source.", low=0.1, high=1, step=0.05
    )


class SolvedStep:
    """Finds the latents from which a DDIM step comes down to the present ones.

    The first guess x' is DDIM inversion's. Then x' <- x' + f * (x - down(x')), where down is the step of the sampler
    and f = 1 / (alpha * alpha' + sigma * sigma'), for a flow model 1: what is left depends on x' through the change of
    the network's velocity alone, which is small where steps are.

    Args:
        iterations: evaluations a step, at least 1.

    Source: Pan et al., Effective real image editing with accelerated iterative diffusion inversion, arXiv:2309.04907,
    equation 8, the fixed-point iteration.
    Differs: the iteration is written for the velocity, not for the noise, so that flow models and schedules that end in
    pure noise are solved too; the fixed point is the same. Their acceleration (Anderson, averages) is left out.
    """

    def __init__(self, iterations: int):
        self.iterations = iterations

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        guess = yield from ReverseDdim().step(state, level, next_level, context)
        latents, denoised = guess.latents, guess.denoised
        for _ in range(self.iterations - 1):
            prediction = yield Query(latents, next_level)
            factor = 1.0
            if prediction.prediction_type != "flow":
                factor /= level.alpha * next_level.alpha + level.sigma * next_level.sigma
            latents = latents + factor * (state.latents - interpolate(prediction, level))
            denoised = prediction.denoised
        return State(latents, denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.iterations * num_steps


class FixedPointInversion(DdimInversion):
    """Inverts the very run that follows, its guidance included.

    Source: as `SolvedStep`. Where the iteration doesn't contract (strong guidance, few steps) the way back misses the
    source: the reconstruction shows it.
    """

    def __init__(self, settings: FixedPointSettings = FixedPointSettings()):
        self.iterations, self.strength = settings.iterations, settings.strength

    def guidance_scale(self, edit_scale: float) -> float:
        return edit_scale

    def noising(self) -> Sampler:
        return SolvedStep(self.iterations)

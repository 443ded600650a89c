"""DDPM: ancestral sampling from the posterior, with either of its two variances."""

from __future__ import annotations

import dataclasses
import math

import torch

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.samplers.exponential_adams import with_fresh_noise

__all__ = ["Ddpm", "DdpmSettings", "posterior"]


@dataclasses.dataclass(frozen=True)
class DdpmSettings:
    """The settings of DDPM."""

    variance: str = setting(
        "small",
        "Small is the posterior's own, large the forward step's, with more fresh noise.",
        choices=("small", "large"),
        label="posterior variance",
    )


def posterior(
    latents: torch.Tensor, denoised: torch.Tensor, level: Level, next_level: Level
) -> tuple[torch.Tensor, float, float]:
    """Compute the mean of x' given x and x0, its variance (small) and the forward step's variance (large).

    With r = alpha / alpha' and beta = sigma^2 - r^2 * sigma'^2, which for a variance-preserving model is 1 - r^2:
    mean = (r * sigma'^2 / sigma^2) * x + (alpha' * beta / sigma^2) * x0, small = beta * sigma'^2 / sigma^2.

    Source: Ho et al., DDPM, arXiv:2006.11239, equations 6 and 7, for any two levels.
    """
    ratio = level.alpha / next_level.alpha
    beta = max(0.0, level.sigma**2 - (ratio * next_level.sigma) ** 2)
    share = next_level.sigma**2 / level.sigma**2
    mean = ratio * share * latents + next_level.alpha * beta / level.sigma**2 * denoised
    return mean, beta * share, beta


class Ddpm:
    """DDPM steps by denoising diffusion probabilistic models; with the small variance this is DDIM with eta 1.

    The step to zero noise adds none, and the step from pure noise takes the small variance: the large one would
    be more than all the noise of the next level.

    Source: Ho et al., arXiv:2006.11239, algorithm 2 and section 3.2.
    """

    def __init__(self, settings: DdpmSettings = DdpmSettings()):
        self.large = settings.variance == "large"

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction = yield Query(state.latents, level)
        mean, small, large = posterior(state.latents, prediction.denoised, level, next_level)
        if next_level.sigma == 0:
            return State(mean, prediction.denoised)
        variance = large if self.large and level.alpha > 0 else small
        return State(with_fresh_noise(mean, math.sqrt(variance), context), prediction.denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps

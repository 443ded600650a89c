"""Minority guidance: the latents are moved towards what the model rarely draws."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Generator, Sequence

import torch

from pipelines.core.prediction import Guidance, Perturbation, Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.guidance.binding import noise_share
from pipelines.guidance.two_branch import TwoBranchGuidance, guide

__all__ = ["Minority", "MinoritySettings", "unit_direction"]


@dataclasses.dataclass(frozen=True)
class MinoritySettings:
    guidance_scale: float = setting(4.0, "How strongly the picture follows the prompt.", low=0, high=30, step=0.1)
    strength: float = setting(
        0.3,
        "How far the latents are moved in all, in parts of their noise; 0 for not at all.",
        low=0,
        high=3,
        step=0.05,
    )
    every: int = setting(2, "Steps from one move to the next.", low=1, high=20, step=1)
    renoised: float = setting(
        0.8, "Share of noise to which the estimate is noised again for comparison.", low=0.1, high=1, step=0.05
    )


def unit_direction(gradient: torch.Tensor) -> torch.Tensor:
    """Scale each sample's gradient (B, ...) to a root-mean-square of 1; one of zeros stays."""
    size = gradient.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (gradient.ndim - 1))
    return gradient / size.where(size > 0, torch.ones_like(size))


class Minority(TwoBranchGuidance):
    """Moves the latents up the gradient of |x0_hat - sg(x0_hat of x0_hat noised again)|^2, large for rare pictures.

    What the model draws often comes back from noise as it was. A move is two evaluations of the prompt's branch, and a
    pass back through the network, which no count of evaluations has. Strength 0 is classifier-free guidance.

    Source: Um & Ye, Self-guided generation of minority samples using diffusion models, arXiv:2407.11555, equations 6
        and 8.
    Differs: a gradient's direction alone counts, and all moves together are at most `strength` times the noise of the
        level; the noise that is added again is the run's first, moved by half a side, so that a seed gives one picture;
        the level is the nearest of the run's own.
    """

    def __init__(self, settings: MinoritySettings = MinoritySettings()):
        super().__init__(settings.guidance_scale)
        self.strength, self.every, self.renoised = settings.strength, settings.every, settings.renoised
        self.patch: Perturbation | None = None
        self._again: Level | None = None
        self._noise: torch.Tensor | None = None

    def with_levels(self, levels: Sequence[Level]) -> Guidance:
        bound = copy.copy(self)
        noisy = [level for level in levels if level.alpha and level.sigma]
        bound._again = min(noisy, key=lambda one: abs(noise_share(one) - self.renoised)) if noisy else None
        return bound

    def shift(
        self, latents: torch.Tensor, level: Level, step: int, num_steps: int
    ) -> Generator[Query, Prediction, torch.Tensor]:
        if not self.strength or self._again is None:
            return latents
        if self._noise is None or self._noise.shape != latents.shape:
            self._noise = latents.roll((latents.shape[-2] // 2, latents.shape[-1] // 2), (-2, -1)) / (
                level.sigma or 1.0
            )
        if step % self.every or not level.alpha:
            return latents
        moved = latents.detach().clone().requires_grad_(True)
        first = yield Query(moved, level, branches=("positive",), role="minority", is_differentiable=True)
        with torch.enable_grad():
            estimate = first.denoised
        noised = self._again.alpha * estimate.detach() + self._again.sigma * self._noise
        second = yield Query(noised, self._again, branches=("positive",), role="noised again")
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad((estimate - second.denoised.detach()).square().sum(), moved)
        size = self.strength * level.sigma * self.every / num_steps
        return latents + size * unit_direction(gradient)

    def shift_evaluations(self, num_steps: int) -> int:
        return 2 * len(range(0, num_steps, self.every)) if self.strength else 0

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        return guide(negative.raw, positive.raw, self.guidance_scale)

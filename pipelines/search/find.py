"""FIND: the mean of the initial noise, learned by policy gradients."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch

from pipelines.core.gradients import no_grad
from pipelines.core.registry import setting
from pipelines.core.types import Request
from pipelines.search.base import Candidate, Problem, SearchSettings

__all__ = ["Find", "FindSettings", "policy_gradient"]


@dataclasses.dataclass(frozen=True)
class FindSettings(SearchSettings):
    """Settings of the search."""

    draws: int = setting(4, "Noises that are drawn for each update of the mean.", low=2, high=16, step=1)
    rate: float = setting(0.5, "Learning rate: 0 is best of N.", low=0, high=10, step=0.05)
    epochs: int = setting(2, "Updates from each drawing.", low=1, high=10, step=1)
    clip: float = setting(0.1, "How far the probability ratio may move from 1.", low=0.001, high=1, step=0.001)


def policy_gradient(
    draws: torch.Tensor, mean: torch.Tensor, before: torch.Tensor, advantages: torch.Tensor, clip: float
) -> torch.Tensor:
    """Compute the gradient with respect to the mean of the clipped objective of unit Gaussians.

    Args:
        draws: z of N(before, 1), (K, C, h, w).
        mean: at which the gradient is taken, (1, C, h, w).
        before: the mean that they were drawn with.
        advantages: of each draw, (K,).
        clip: beyond 1 +- this, a ratio that its advantage has moved counts no more.

    Source: Schulman et al., Proximal policy optimization, arXiv:1707.06347, equation 7; as of Chen et al., FIND,
    arXiv:2407.19453.
    Differs: the ratio is per number of the noise (the geometric mean); that of all together is 0 or infinite in so
    many dimensions.
    """
    change = (draws - before).square() - (draws - mean).square()
    ratio = (change.flatten(1).mean(dim=1) / 2).exp()
    clipped = ((advantages > 0) & (ratio > 1 + clip)) | ((advantages < 0) & (ratio < 1 - clip))
    weights = torch.where(clipped, torch.zeros_like(ratio), advantages.to(ratio) * ratio)
    return (weights[:, None, None, None] * (draws - mean)).mean(dim=0, keepdim=True)


class Find:
    """Fine-tuning the initial noise distribution: draws from N(mean, 1), the mean moved towards what was rewarded.

    Source: Chen et al., FIND: Fine-tuning initial noise distribution with policy optimization for diffusion models,
    arXiv:2407.19453.
    Differs: rewards are calibrated by mean and deviation of their own draws, not by a network that predicts them; the
    variance stays 1; draws are scaled back to the norm of normal ones.
    """

    def __init__(self, settings: FindSettings):
        self.settings = settings

    def check(self, request: Request) -> None:
        """Accept any request."""

    def least(self, cost: float, num_steps: int) -> float:
        return cost

    @no_grad
    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        settings, first = self.settings, 0
        noise, _ = problem.builder.draw(0, 1)
        mean = torch.zeros_like(noise)
        while count := min(settings.draws, problem.affordable()):
            noise, source = problem.builder.draw(first, count)
            draws = mean + noise
            scale = math.sqrt(1 + float(mean.square().mean()))
            judged = problem.judge(problem.finish(problem.run((draws / scale, source))))
            seeds = [f"draw of seed {problem.request.seed + first + i}" for i in range(count)]
            yield judged.name(seeds)
            first += count
            spread = float(judged.rewards.std(unbiased=False))
            if count == 1 or spread == 0 or settings.rate == 0:
                continue
            advantages, before = (judged.rewards - judged.rewards.mean()) / spread, mean
            for _ in range(settings.epochs):
                mean = mean + settings.rate * policy_gradient(draws, mean, before, advantages, settings.clip)

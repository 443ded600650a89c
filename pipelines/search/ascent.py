"""Ascent of a reward's gradient from noise to noise, whatever computes the gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch

from pipelines.core.errors import MethodFitError
from pipelines.core.registry import setting
from pipelines.core.types import Request
from pipelines.rewards import REWARDS
from pipelines.rewards.base import DIFFERENTIABLE
from pipelines.search.base import Candidate, Judged, Problem, SearchSettings
from pipelines.search.particles import require_uncached_rows
from pipelines.search.paths import require_plain_start, require_unshifted

__all__ = ["AscentSettings", "Gradient", "ascend", "log_norm_density", "require_ascent"]


@dataclasses.dataclass(frozen=True)
class AscentSettings(SearchSettings):
    """Settings of the ascent."""

    rate: float = setting(5.0, "Learning rate.", low=0, high=100, step=0.1)
    clip: float = setting(0.1, "Largest norm of a gradient; longer ones are shortened.", low=0.001, high=10, step=0.001)
    momentum: float = setting(0.9, "Nesterov momentum.", low=0, high=0.99, step=0.01)
    regularization: float = setting(
        0.01, "How strongly the noise's norm is kept near that of a normal draw.", low=0, high=1, step=0.001
    )


Gradient = Callable[["torch.Tensor"], tuple["torch.Tensor", Judged]]
"""Noise (1, C, h, w) to the reward's gradient with respect to it, and the picture that it makes."""


def log_norm_density(noise: torch.Tensor) -> torch.Tensor:
    """Compute ln p of each sample's norm, up to a constant: (d - 1) ln |z| - |z|^2 / 2, largest at sqrt(d - 1).

    Args:
        noise: (B, ...), of d numbers each.

    Returns:
        (B,), the logarithm of the chi density of d degrees of freedom.

    Source: Samuel et al., Norm-guided latent space exploration for text-to-image generation, arXiv:2306.08687,
    as Eyring et al., ReNO, arXiv:2406.04312, use it.
    """
    norm = noise.flatten(1).norm(dim=1)
    return (noise[0].numel() - 1) * norm.log() - norm**2 / 2


def require_ascent(request: Request, label: str) -> None:
    """Refuse what has no gradient.

    Raises:
        MethodFitError: the reward has none.
        SettingsError: another choice stands against it.
    """
    if DIFFERENTIABLE not in REWARDS[request.reward.key].groups:
        reward = REWARDS[request.reward.key].label
        raise MethodFitError(f"{label} follows the reward's gradient, and {reward} has none. Choose another reward.")
    require_plain_start(request, label)
    require_unshifted(request, label)
    require_uncached_rows(request, label)


def ascend(problem: Problem, settings: AscentSettings, gradient: Gradient, cost: float) -> Iterator[list[Candidate]]:
    """Yield the picture before each step of the ascent, while the budget pays for `cost` evaluations.

    Source: Eyring et al., ReNO, arXiv:2406.04312: Nesterov's momentum, the gradient clipped.
    """
    noise, _ = problem.builder.draw(0, 1)
    velocity, turn = torch.zeros_like(noise), 0
    while problem.affordable(cost):
        slope, judged = gradient(noise)
        yield judged.name([f"iteration {turn}"])
        norm = noise.norm()
        pull = ((noise[0].numel() - 1) / norm**2 - 1) * noise  # the gradient of log_norm_density
        slope = slope + settings.regularization * pull
        slope = slope * min(1.0, settings.clip / max(float(slope.norm()), 1e-12))
        velocity = settings.momentum * velocity + slope
        noise = noise + settings.rate * (slope + settings.momentum * velocity)
        turn += 1
    if problem.affordable():
        with torch.no_grad():
            _, source = problem.builder.draw(0, 1)
            judged = problem.judge(problem.finish(problem.run((noise, source))))
        yield judged.name([f"iteration {turn}"])

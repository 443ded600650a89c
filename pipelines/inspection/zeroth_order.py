"""Descent without backpropagation: slopes along random directions, freed of what the past showed to be noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

__all__ = ["DescentSettings", "ZerothOrderAdam", "estimate_gradient", "list_noise_directions"]

_BETAS, _DAMPING = (0.9, 0.999), 1e-3


def estimate_gradient(directions: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Estimate a gradient from its slopes along normally distributed directions, the mean of slope times direction.

    Of a linear function the expectation is its gradient.

    Args:
        directions: (n, d).
        slopes: (n,), (f(x + mu u) - f(x)) / mu along each.

    Returns:
        (d,).
    """
    return slopes @ directions / len(slopes)


def list_noise_directions(history: torch.Tensor, left_out: float) -> torch.Tensor:
    """List the principal directions in which past vectors varied least, all together by the share `left_out` at most.

    Args:
        history: (t, d), vectors of past steps.
        left_out: share of the variance, from 0 to 1; at 0 only directions of no variance are listed.

    Returns:
        (k, d), orthonormal.

    Source: Seo et al., Efficient personalization of quantized diffusion model without backpropagation,
    arXiv:2503.14868, the subspace gradient; the authors' code (github.com/ignoww/ZOODiP, read, not run) projects the
    gradient off the last principal components of the past tokens.
    Differs: vectors are centered and not scaled to unit deviation.
    """
    centered = history - history.mean(0)
    _, values, components = torch.linalg.svd(centered, full_matrices=False)
    shares = values.square() / values.square().sum().clamp_min(torch.finfo(values.dtype).tiny)
    # Variance that is left from each component on; the first is always kept.
    rest = shares.flip(0).cumsum(0).flip(0)
    is_noise = rest <= left_out + torch.finfo(values.dtype).eps
    is_noise[0] = False
    return components[is_noise]


@dataclasses.dataclass(frozen=True)
class DescentSettings:
    """Holds what a descent goes by.

    Attributes:
        learning_rate: of Adam.
        memory: past vectors that the noise directions are found from, and steps from one search of them to the next;
            0 for none.
        left_out: share of their variance that counts as noise.
    """

    learning_rate: float
    memory: int = 0
    left_out: float = 1e-3


class ZerothOrderAdam:
    """Adam on estimated gradients, projected off the noise directions of its own past.

    A direction once left out no longer varies, and so stays left out.

    Args:
        start: (d,), where it begins.
        settings: of the descent.

    Attributes:
        vector: (d,), where it stands.
    """

    def __init__(self, start: torch.Tensor, settings: DescentSettings):
        self.vector, self.settings = start.clone(), settings
        self._first, self._second = torch.zeros_like(start), torch.zeros_like(start)
        self._past: list[torch.Tensor] = []
        self._noise = start.new_empty(0, len(start))
        self._steps = 0

    def step(self, directions: torch.Tensor, slopes: Sequence[float]) -> None:
        """Take one step by slopes (n,) along directions (n, d)."""
        gradient = estimate_gradient(directions, directions.new_tensor(slopes))
        gradient = gradient - (gradient @ self._noise.T) @ self._noise
        self._steps += 1
        first, second = _BETAS
        self._first = first * self._first + (1 - first) * gradient
        self._second = second * self._second + (1 - second) * gradient.square()
        mean = self._first / (1 - first**self._steps)
        deviation = (self._second / (1 - second**self._steps)).sqrt()
        size = deviation + _DAMPING * deviation.max() + torch.finfo(mean.dtype).tiny
        self.vector = self.vector - self.settings.learning_rate * mean / size
        self._remember()

    def _remember(self) -> None:
        memory = self.settings.memory
        if not memory:
            return
        self._past = [*self._past, self.vector][-memory:]
        if self._steps % memory == 0 and len(self._past) > 1:
            self._noise = list_noise_directions(torch.stack(self._past), self.settings.left_out)

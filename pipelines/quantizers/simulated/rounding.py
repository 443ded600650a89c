"""Rounding each weight up or down, whichever leaves a layer's outputs as they were: learned, not to the nearest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.quantizers.simulated.neighbors import Neighbors

__all__ = ["ANNEALING", "Annealing", "choose_sides", "initial_logits", "round_adaptively", "soft_choice", "undecided"]

_GAMMA, _ZETA = -0.1, 1.1
"""Ends of the stretched sigmoid, which reaches 0 and 1."""

_MINIBATCH = 128


@dataclasses.dataclass(frozen=True)
class Annealing:
    """Describes the optimization.

    Attributes:
        iterations: gradient steps.
        rate: of Adam, for the logits.
        weight: of the term that pushes each choice to 0 or 1, beside a loss that is 1 for rounding to the nearest.
        warm_up: part of the iterations without that term.
        start, end: its exponent at first and at last.
    """

    iterations: int = 200
    rate: float = 0.02
    weight: float = 0.01
    warm_up: float = 0.2
    start: float = 20.0
    end: float = 2.0

    def exponent(self, iteration: int) -> float | None:
        """Return the exponent of an iteration; None while the term is off."""
        first = self.warm_up * self.iterations
        if iteration < first:
            return None
        return self.end + (self.start - self.end) * (1 - (iteration - first) / max(1.0, self.iterations - first))


ANNEALING = Annealing()


def soft_choice(logits: torch.Tensor) -> torch.Tensor:
    """Return how far up each weight is rounded, 0 to 1: h(V) = clip((zeta - gamma) sigmoid(V) + gamma, 0, 1)."""
    return (logits.sigmoid() * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)


def initial_logits(weights: torch.Tensor, neighbors: Neighbors) -> torch.Tensor:
    """Return the logits at which each weight is where it was, between its neighbors."""
    width = neighbors.up - neighbors.down
    place = torch.where(width > 0, (weights - neighbors.down) / width.clamp_min(1e-30), 0.5).clamp(0, 1)
    return ((place - _GAMMA) / (_ZETA - _GAMMA)).logit()


def undecided(choice: torch.Tensor, exponent: float) -> torch.Tensor:
    """Compute the sum of 1 - abs(2h - 1)^exponent, which is zero where every choice is made."""
    return (1 - (2 * choice - 1).abs().pow(exponent)).sum()


def choose_sides(logits: torch.Tensor, neighbors: Neighbors) -> torch.Tensor:
    """Round each weight to the side that its logit says."""
    return torch.where(logits >= 0, neighbors.up, neighbors.down)


def round_adaptively(
    rows: torch.Tensor,
    neighbors: Neighbors,
    inputs: torch.Tensor,
    annealing: Annealing,
    cancelled: Callable[[], bool] = lambda: False,
) -> torch.Tensor:
    """Choose for each weight one of its neighbors so that the layer's outputs on given inputs change least.

    What is returned is never worse on these inputs than rounding to the nearest: if the optimization found nothing
    better, that is returned.

    Args:
        rows: weights (R, K).
        neighbors: of the weights.
        inputs: vectors (N, K).
        annealing: of the optimization.
        cancelled: polled before each iteration.

    Source: Nagel et al., Up or down? Adaptive rounding for post-training quantization, arXiv:2004.10568, section 3.
    Differs: the neighbors may be those of any grid; hundreds of iterations, not ten thousands; the loss is relative to
    that of rounding to the nearest.

    Raises:
        Cancelled: the person stopped it.
    """
    nearest = neighbors.nearest(rows)
    base = _output_error(nearest - rows, inputs)
    if base == 0:
        return nearest
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad():
        rows, inputs, down = rows.clone(), inputs.clone(), neighbors.down.clone()
        width = neighbors.up - neighbors.down
        logits = initial_logits(rows, neighbors).requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=annealing.rate)
        scale = len(inputs) / (base * min(_MINIBATCH, len(inputs)))
        for iteration in range(annealing.iterations):
            if cancelled():
                raise Cancelled
            some = inputs[torch.randperm(len(inputs), generator=generator)[:_MINIBATCH]]
            choice = soft_choice(logits)
            loss = (some @ (down + width * choice - rows).T).square().sum() * scale
            exponent = annealing.exponent(iteration)
            if exponent is not None:
                loss = loss + annealing.weight * undecided(choice, exponent) / len(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = choose_sides(logits.detach(), neighbors)
    return found if _output_error(found - rows, inputs) < base else nearest


def _output_error(difference: torch.Tensor, inputs: torch.Tensor) -> float:
    return float((inputs @ difference.T).square().sum())

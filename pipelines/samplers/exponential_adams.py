"""Multistep exponential integration of the estimate of x0, of any order and with any share of fresh noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pipelines.core.sampler import Past, StepContext
from pipelines.core.schedule import Level
from pipelines.samplers.dpmpp import exponential_step, kept_share
from pipelines.samplers.integral_weights import integral_weights

__all__ = ["adams_step", "finite_history", "fresh_std", "with_fresh_noise"]


def fresh_std(level: Level, next_level: Level, eta: float) -> float:
    """Compute sigma' * sqrt(1 - e^(-2 * eta * h)): standard deviation of the fresh noise of one step.

    Source: Xue et al., SA-Solver, arXiv:2309.05019, section 4, with tau^2 = eta.
    """
    if eta == 0 or next_level.sigma == 0:
        return 0.0
    return next_level.sigma * math.sqrt(-math.expm1(-2 * eta * (next_level.lam - level.lam)))


def with_fresh_noise(
    mean: torch.Tensor, std: float, context: StepContext, span: tuple[Level, Level] | None = None
) -> torch.Tensor:
    """Add fresh noise of this standard deviation to the mean, (B, ...); nothing is drawn where it is 0.

    Args:
        mean: (B, ...).
        std: of the noise.
        context: its source.
        span: of the step, for an SDE solver, whose noise may come from a Brownian path.
    """
    if std == 0:
        return mean
    return mean + std * (context.noise(mean) if span is None else context.noise.between(mean, *span))


def finite_history(newest: Past, history: Sequence[Past], length: int) -> tuple[Past, ...]:
    """Put the newest estimate before the older ones, without those from pure noise, whose lambda is infinitely far."""
    return (newest, *(past for past in history if math.isfinite(past.level.lam)))[:length]


def adams_step(
    latents: torch.Tensor, level: Level, next_level: Level, estimates: Sequence[Past], eta: float = 0.0
) -> torch.Tensor:
    """Compute the step's mean with x0_hat interpolated in lambda through the given estimates and integrated exactly.

    x' = e^(-eta * h) * (sigma' / sigma) * x + alpha' * (1 + eta) * integral of e^(-(1 + eta) * v) * D(lambda' - v)
    over v from 0 to h. With one estimate it is `exponential_step`.

    Args:
        latents: (B, C, h, w) at `level`.
        level, next_level: ends of the step; with more than one estimate both have a finite lambda.
        estimates: at distinct levels; one at `next_level` makes it a corrector.
        eta: share of fresh noise; the caller adds it.

    Source: Xue et al., SA-Solver, arXiv:2309.05019, section 5 (SA-Predictor and SA-Corrector), with tau^2 = eta.
    """
    if len(estimates) == 1:
        return exponential_step(latents, level, next_level, estimates[0].denoised, eta)
    rate = 1 + eta
    nodes = [next_level.lam - past.level.lam for past in estimates]
    weights = integral_weights(nodes, next_level.lam - level.lam, rate)
    result = kept_share(level, next_level, eta) * latents
    for weight, past in zip(weights, estimates, strict=True):
        result = result + next_level.alpha * rate * weight * past.denoised
    return result

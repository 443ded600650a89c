"""UniPC: a multistep predictor whose corrector costs no evaluation."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Past, State, StepContext, Stepping
from pipelines.core.schedule import Level

__all__ = ["UniPc", "UniPcSettings"]


@dataclasses.dataclass(frozen=True)
class UniPcSettings:
    """The settings of UniPC."""

    order: int = setting(
        2,
        "Order of the predictor; the corrector adds one. Untouched, it fits itself to fewer steps.",
        low=1,
        high=3,
        step=1,
    )
    variant: str = setting(
        "bh2", "The function B(h) of the paper: bh1 is h, bh2 is e^h - 1.", choices=("bh1", "bh2"), label="B(h)"
    )
    corrector: bool = setting(True, "Correct each step with the next step's evaluation.")
    lower_order_final: bool = setting(True, "Lower the order in the last steps, which steadies runs of few steps.")


@dataclasses.dataclass(frozen=True)
class _Stride:
    """The last step, as the corrector needs it: from `latents` at `level` with these estimates."""

    latents: torch.Tensor
    level: Level
    history: tuple[Past, ...]
    order: int


class UniPc:
    """UniPC is the unified predictor-corrector on the data prediction.

    Source: Zhao et al., UniPC, arXiv:2302.04867, algorithms 5 to 8 and equation 3.
    Differs: from a level without signal (alpha = 0) the estimates before it are not used, since their
    distance in lambda is infinite.
    """

    def __init__(self, settings: UniPcSettings = UniPcSettings()):
        self.settings = settings

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        denoised = (yield Query(state.latents, level)).denoised
        latents = state.latents
        if state.memory and self.settings.corrector:
            latents = self._update(state.memory[0], level, corrected=denoised)
        history = tuple(past for past in state.history if math.isfinite(past.level.lam))
        history = (Past(level, denoised), *history)[: self.settings.order]
        remaining = context.num_steps - context.index if self.settings.lower_order_final else len(history)
        order = min(len(history), remaining) if math.isfinite(next_level.lam) else 1
        stride = _Stride(latents, level, history, order)
        return State(self._update(stride, next_level), denoised, history, (stride,))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps

    def _update(self, stride: _Stride, next_level: Level, corrected: torch.Tensor | None = None) -> torch.Tensor:
        """UniP, or UniC when the estimate at the step's end is given."""
        level, order = stride.level, stride.order
        newest, *older = stride.history[:order]
        h = next_level.lam - level.lam
        first = math.expm1(-h)
        factor = -h if self.settings.variant == "bh1" and math.isfinite(h) else first
        ratios = [(past.level.lam - level.lam) / h for past in older]
        slopes = [(past.denoised - newest.denoised) / ratio for past, ratio in zip(older, ratios, strict=True)]
        if corrected is not None:
            ratios.append(1.0)
            slopes.append(corrected - newest.denoised)
        latents = next_level.sigma / level.sigma * stride.latents - next_level.alpha * first * newest.denoised
        for weight, slope in zip(_solve_weights(ratios, h, factor, corrected is not None), slopes, strict=True):
            latents = latents - next_level.alpha * factor * weight * slope
        return latents


def _solve_weights(ratios: list[float], h: float, factor: float, corrector: bool) -> list[float]:
    """Solve R(h) rho = phi(h) / B(h) (equation 3), for data prediction with h -> -h.

    One unknown takes the paper's rho = 1/2, which keeps the order without depending on h.
    """
    if not ratios:
        return []
    if len(ratios) == 1:
        return [0.5]
    size, phi, factorial, right = len(ratios), math.expm1(-h) / -h - 1, 1, []
    for power in range(1, size + 1):
        right.append(phi * factorial / factor)
        factorial *= power + 1
        phi = phi / -h - 1 / factorial
    weights: list[float] = np.linalg.solve(np.vander(ratios, size, increasing=True).T, np.array(right)).tolist()
    return weights

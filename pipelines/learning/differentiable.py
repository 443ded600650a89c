"""A sampler's run with gradients: of the final latents with respect to the times it visits and to its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from pipelines.core.prediction import Conditioning, Guidance, Network, Prediction
from pipelines.core.schedule import Level
from pipelines.learning.formula import Formula

__all__ = ["as_type", "factors_of", "run_with_gradients"]

_SHIFT = 1e-3
"""Of a time in central differences: on float64 factors it leaves seven digits of the slope."""


class _Factors(torch.autograd.Function):
    """A formula's numbers as a function of the schedule's, with the slope by central differences.

    The factors cost no network evaluation, so differences of them are cheap and, in float64, exact enough; the
    network's own slope is autograd's.
    """

    @staticmethod
    def forward(context: Any, values: torch.Tensor, write: Callable[[np.ndarray], Formula]) -> torch.Tensor:
        context.values, context.write = values.detach().numpy().copy(), write
        return torch.from_numpy(write(context.values).flat)

    @staticmethod
    def backward(context: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = np.zeros_like(context.values)
        for i in range(len(gradient)):
            ends = []
            for side in (1, -1):
                shifted_values = context.values.copy()
                shifted_values[i] += side * _SHIFT
                ends.append(context.write(shifted_values).flat)
            gradient[i] = slope.numpy() @ (ends[0] - ends[1]) / (2 * _SHIFT)
        return torch.from_numpy(gradient), None


def factors_of(values: torch.Tensor, write: Callable[[np.ndarray], Formula]) -> torch.Tensor:
    """Return `Formula.flat` of what `write` makes of the values (K,), float64 on the CPU, differentiable in them."""
    return _Factors.apply(values, write)


def as_type(prediction: Prediction, prediction_type: str) -> torch.Tensor:
    """Return the prediction in the form in which a network of this type would have said it."""
    if prediction.prediction_type == prediction_type:
        return prediction.raw
    level = prediction.level
    if prediction_type == "epsilon":
        return prediction.noise
    if prediction_type == "v_prediction":
        return level.alpha * prediction.noise - level.sigma * prediction.denoised
    if prediction_type == "flow":
        return prediction.noise - prediction.denoised
    return prediction.denoised


def run_with_gradients(
    factors: torch.Tensor,
    levels: Sequence[Level],
    network: Network,
    guidance: Guidance,
    conditionings: Mapping[str, Conditioning],
    latents: torch.Tensor,
) -> torch.Tensor:
    """Return the final latents (B, C, h, w) of a run whose factors and start carry gradients.

    Each evaluation is checkpointed: its inner values are computed again in the backward pass instead of kept.

    Args:
        factors: `Formula.flat` of the run.
        levels: the formula's, for the guidance.
        network, guidance, conditionings: of the run.
        latents: (B, C, h, w) at the first level.
    """
    count = len(levels)
    query_factors = factors[: count * (count + 1)].reshape(count, count + 1).to(latents)
    times, end = factors[count * (count + 1) : -count - 1].to(latents), factors[-count - 1 :].to(latents)

    def evaluate(question: torch.Tensor, time: torch.Tensor, level: Level) -> torch.Tensor:
        rows = time.expand(len(question))
        answers = {}
        for name in guidance.plan(level):
            raw = network.predict_raw(question, rows, conditionings[name])
            answers[name] = Prediction(raw, question, level, network.prediction_type)
        return as_type(guidance.combine(answers), network.prediction_type)

    tensors = [latents]
    for m, level in enumerate(levels):
        question = _combine(query_factors[m, : m + 1], tensors)
        tensors.append(checkpoint(evaluate, question, times[m], level, use_reentrant=False))
    return _combine(end, tensors)


def _combine(factors: torch.Tensor, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return sum((factor * one for factor, one in zip(factors, tensors, strict=True)), torch.zeros_like(tensors[0]))

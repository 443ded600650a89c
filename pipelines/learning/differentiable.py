"""A sampler's run with gradients: of the final latents with respect to the times it visits and to its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from pipelines.core.prediction import Conditioning, Guidance, Network, Prediction
from pipelines.core.schedule import Level
from pipelines.learning.formula import Formula

__all__ = ["as_type", "factors_of", "run_with_gradients"]


def factors_of(values: torch.Tensor, write: Callable[[np.ndarray], Formula]) -> torch.Tensor:
    """Return `Formula.flat` of what `write` makes of the values (K,), float64 on the CPU, differentiable in them."""
    from pipelines.learning.central_differences import Factors  # late: a subclass of PyTorch's needs it imported

    return Factors.apply(values, write)


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
    from torch.utils.checkpoint import checkpoint  # late: it needs PyTorch imported

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

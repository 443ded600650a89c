"""How attention's scores are rounded, after their softmax: evenly, or by powers of two."""

from __future__ import annotations

import dataclasses

import torch

__all__ = ["ScoreSpec", "round_scores"]


@dataclasses.dataclass(frozen=True)
class ScoreSpec:
    """Describes how attention's scores are rounded.

    Attributes:
        form: "full" for not at all; "even", levels evenly from 0 to 1; "log2", powers of two below the largest.
        bits: of a score.
        keep_first: the first key's scores stay as they are where keys are other tokens than queries.
    """

    form: str = "full"
    bits: int = 8
    keep_first: bool = False


def round_scores(scores: torch.Tensor, spec: ScoreSpec) -> torch.Tensor:
    """Round probabilities (..., queries, keys).

    "log2" gives top * 2^-q with q = round(log2(top / p)) from 0 to 2^bits - 1, where top is the largest score of each
    head, measured live.

    Source: log2 with a live maximum, and the start token apart, is DGQ.
    """
    if spec.form == "full":
        return scores
    steps = 2**spec.bits - 1
    if spec.form == "even":
        return (scores * steps).round() / steps
    top = scores.amax((-2, -1), keepdim=True)
    code = (top / scores.clamp_min(torch.finfo(scores.dtype).tiny)).log2().round().clamp(0, steps)
    return torch.where(scores > 0, top * torch.exp2(-code), 0.0)

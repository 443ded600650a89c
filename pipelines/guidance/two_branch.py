"""What guidance methods on a conditional and an unconditional prediction share."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipelines.core.prediction import Perturbation, Prediction
from pipelines.core.schedule import Level
from pipelines.core.types import Traits

__all__ = ["TwoBranchGuidance", "guide", "inner_product", "needs_two_branches"]


def needs_two_branches(traits: Traits) -> str | None:
    """Say why a model does not fit a method that needs both predictions."""
    if traits.backbone == "pipeline":
        return "it runs through its own pipeline, which brings its own guidance. Choose Classifier-free guidance"
    if traits.guidance != "cfg":
        return "it takes the guidance scale as an input and has no unconditional prediction"
    return None


def guide(negative: torch.Tensor, positive: torch.Tensor, scale: float) -> torch.Tensor:
    """Compute U + w (C - U) of two predictions (B, C, h, w), in the order in which `Cfg` computes it."""
    return negative + scale * (positive - negative)


def inner_product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Each sample's inner product, (B, 1, ...), in float64 where the device has it.

    Args:
        first, second: (B, ...) of one shape.
    """
    dtype = torch.float32 if first.device.type == "mps" else torch.float64
    return (first.to(dtype) * second.to(dtype)).sum(tuple(range(1, first.ndim)), keepdim=True)


class TwoBranchGuidance:
    """Evaluates both branches above a guidance scale of 1, the conditional one alone up to it, as diffusers does.

    A subclass says in `blend` what becomes of the two network outputs.
    """

    perturbation: Perturbation | None = None

    def __init__(self, guidance_scale: float):
        self.guidance_scale = guidance_scale

    def plan(self, level: Level) -> tuple[str, ...]:
        return ("negative", "positive") if self.guidance_scale > 1 else ("positive",)

    def combine(self, branches: Mapping[str, Prediction]) -> Prediction:
        positive = branches["positive"]
        if "negative" not in branches:
            return positive
        return positive.with_raw(self.blend(branches["negative"], positive))

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        """Make one network output (B, C, h, w) of both predictions."""
        raise NotImplementedError

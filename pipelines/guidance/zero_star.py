"""CFG-Zero*: an unconditional prediction of the right length, and a first step that stands still."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.prediction import Prediction
from pipelines.core.registry import setting
from pipelines.guidance.two_branch import TwoBranchGuidance, guide, inner_product

__all__ = ["ZeroStar", "ZeroStarSettings", "optimal_scale"]


@dataclasses.dataclass(frozen=True)
class ZeroStarSettings:
    guidance_scale: float = setting(
        4.0, "How strongly the picture follows the prompt; 1 switches guidance off.", low=0, high=30, step=0.1
    )
    scaling: bool = setting(True, "Scale the negative prompt's prediction to the length that fits the prompt's best.")
    zero_levels: int = setting(
        1, "First noise levels at which a flow model's velocity is set to zero.", low=0, high=10, label="Zero steps"
    )


def optimal_scale(negative: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Find the factor s of each sample, (B, 1, ...), that makes ||C - s U|| least: <C, U> / ||U||^2; 1 where U is 0."""
    length = inner_product(negative, negative)
    return (inner_product(positive, negative) / length).where(length > 0, torch.ones_like(length))


class ZeroStar(TwoBranchGuidance):
    """Computes s U + w (C - s U) with the s that brings U nearest to C; flow models stand still at the first levels.

    Without scaling and zero levels it is classifier-free guidance.

    Source: Fan et al., CFG-Zero*: Improved classifier-free guidance for flow matching models, arXiv:2503.18886,
        equations 8 to 10 (the scale) and section 4.2 (zero-init).
    Differs: a level counts once however often a sampler evaluates there. Networks that predict noise or v are scaled
        only: for them a zero output is no standing still.
    """

    def __init__(self, settings: ZeroStarSettings = ZeroStarSettings()):
        super().__init__(settings.guidance_scale)
        self.scaling, self.zero_levels = settings.scaling, settings.zero_levels
        self._first_times: tuple[float, ...] = ()

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        if positive.prediction_type == "flow" and self._is_among_first(float(positive.level.timestep)):
            return torch.zeros_like(positive.raw)
        low = negative.raw
        if self.scaling:
            low = (optimal_scale(low, positive.raw) * low).to(low.dtype)
        return guide(low, positive.raw, self.guidance_scale)

    def _is_among_first(self, time: float) -> bool:
        if time not in self._first_times and len(self._first_times) < self.zero_levels:
            self._first_times = (*self._first_times, time)
        return time in self._first_times

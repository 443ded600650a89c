"""Adaptive guidance: the unconditional prediction is left out once it says the same."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.prediction import Prediction
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.guidance.two_branch import TwoBranchGuidance, guide, inner_product

__all__ = ["Adaptive", "AdaptiveSettings", "cosine"]


@dataclasses.dataclass(frozen=True)
class AdaptiveSettings:
    guidance_scale: float = setting(
        4.0, "How strongly the picture follows the prompt while both predictions differ.", low=0, high=30, step=0.1
    )
    threshold: float = setting(
        0.991,
        "Cosine of the two noise estimates from which on the prompt's stands alone; above 1 never.",
        low=0.5,
        high=1.01,
        step=0.001,
    )


def cosine(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Each sample's cosine similarity, (B, 1, ...); 1 where one of them is zero."""
    norms = (inner_product(first, first) * inner_product(second, second)).sqrt()
    return (inner_product(first, second) / norms).where(norms > 0, torch.ones_like(norms))


class Adaptive(TwoBranchGuidance):
    """Guides a sample until its two estimates of the noise agree, then takes the conditional one alone.

    Each sample has its own turning point, so that a picture does not depend on its batch; evaluations are saved from
    the last one's on.

    Source: Castillo et al., Adaptive guidance: Training-free acceleration of conditional diffusion models,
        arXiv:2312.12487, section 4 and its threshold.
    """

    def __init__(self, settings: AdaptiveSettings = AdaptiveSettings()):
        super().__init__(settings.guidance_scale)
        self.threshold = settings.threshold
        self._agreed: torch.Tensor | None = None
        self._all_agreed = False

    def plan(self, level: Level) -> tuple[str, ...]:
        return ("positive",) if self._all_agreed else super().plan(level)

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        guided = guide(negative.raw, positive.raw, self.guidance_scale)
        if self.threshold > 1:
            return guided
        # the step at which they agree is still guided, the paper's last one
        before = self._agreed
        agreed = cosine(negative.noise, positive.noise) >= self.threshold
        if before is not None and before.shape == agreed.shape:
            guided = torch.where(before, positive.raw, guided)
            agreed = agreed | before
        self._agreed, self._all_agreed = agreed, bool(agreed.all())
        return guided

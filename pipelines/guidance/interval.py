"""Guidance in an interval of noise levels only."""

from __future__ import annotations

import dataclasses
import math

import torch

from pipelines.core.prediction import Prediction
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.guidance.two_branch import TwoBranchGuidance, guide

__all__ = ["Interval", "IntervalSettings"]


@dataclasses.dataclass(frozen=True)
class IntervalSettings:
    guidance_scale: float = setting(
        4.0, "How strongly the picture follows the prompt inside the interval.", low=0, high=30, step=0.1
    )
    sigma_low: float = setting(
        0.28, "Below this noise-to-signal ratio the prompt's prediction stands alone.", low=0, high=10, step=0.01
    )
    sigma_high: float = setting(
        5.42,
        "Above this noise-to-signal ratio the prompt's prediction stands alone; 0 for no upper end.",
        low=0,
        high=100,
        step=0.01,
    )


class Interval(TwoBranchGuidance):
    """Guides where sigma_low < sigma / alpha <= sigma_high; elsewhere one branch is evaluated instead of two.

    With sigma_low 0 and sigma_high 0 it is classifier-free guidance.

    Source: Kynkäänniemi et al., Applying guidance in a limited interval improves sample and distribution quality in
        diffusion models, arXiv:2404.07724, equation 5; the defaults are those of its section 4.3 for SDXL.
    Differs: the paper states sigma of networks in EDM's form; sigma / alpha is the same quantity in every other.
    """

    def __init__(self, settings: IntervalSettings = IntervalSettings()):
        super().__init__(settings.guidance_scale)
        self.low, self.high = settings.sigma_low, settings.sigma_high or math.inf

    def plan(self, level: Level) -> tuple[str, ...]:
        ratio = level.sigma / level.alpha if level.alpha else math.inf
        inside = self.low < ratio <= self.high or (ratio == 0 and self.low == 0)
        return super().plan(level) if inside else ("positive",)

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        return guide(negative.raw, positive.raw, self.guidance_scale)

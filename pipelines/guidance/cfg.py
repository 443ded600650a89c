"""Classifier-free guidance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch

from pipelines.core.prediction import Guidance, Prediction
from pipelines.core.registry import setting
from pipelines.core.schedule import Level

__all__ = ["Cfg", "CfgSettings", "OneBranchGuidance", "Unguided", "rescale", "without_branches"]


@dataclasses.dataclass(frozen=True)
class CfgSettings:
    guidance_scale: float = setting(
        4.0,
        "How strongly the picture follows the prompt; 1 switches guidance off and halves the work.",
        low=0,
        high=30,
        step=0.1,
    )
    guidance_rescale: float = setting(
        0.0, "Pulls over-saturated contrast of strong guidance back; 0.7 is the paper's.", low=0, high=1, step=0.05
    )


def rescale(guided: torch.Tensor, positive: torch.Tensor, strength: float) -> torch.Tensor:
    """Bring each sample's standard deviation back towards that of the conditional prediction.

    Source: Lin et al., Common diffusion noise schedules and sample steps are flawed, arXiv:2305.08891,
    equations 14 to 16.
    """
    axes = tuple(range(1, guided.ndim))
    ratio = positive.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    return guided * (strength * ratio + (1 - strength))


class Cfg:
    """Computes U + w * (C - U) on the network's own output; the conditional branch alone up to w = 1, as diffusers
    does.

    Source: Ho & Salimans, Classifier-free diffusion guidance, arXiv:2207.12598, equation 6 (there 1 + w).
    """

    perturbation = None

    def __init__(self, settings: CfgSettings = CfgSettings()):
        self.guidance_scale = settings.guidance_scale
        self.guidance_rescale = settings.guidance_rescale

    def plan(self, level: Level) -> tuple[str, ...]:
        return ("negative", "positive") if self.guidance_scale > 1 else ("positive",)

    def combine(self, branches: Mapping[str, Prediction]) -> Prediction:
        positive = branches["positive"]
        if "negative" not in branches:
            return positive
        negative = branches["negative"].raw
        guided = negative + self.guidance_scale * (positive.raw - negative)
        if self.guidance_rescale:
            guided = rescale(guided, positive.raw, self.guidance_rescale)
        return positive.with_raw(guided)


class Unguided:
    """Takes the conditional branch alone, for models that take the scale as an input or need none."""

    guidance_scale = 1.0
    perturbation = None

    def plan(self, level: Level) -> tuple[str, ...]:
        return ("positive",)

    def combine(self, branches: Mapping[str, Prediction]) -> Prediction:
        return branches["positive"]


@runtime_checkable
class OneBranchGuidance(Guidance, Protocol):
    """A guidance that has something to do where the network takes the guidance scale as an input."""

    def without_branches(self) -> Guidance:
        """Return what it does on such a network: it plans the conditional branch alone."""


def without_branches(guidance: Guidance) -> Guidance:
    """Return what is left of a guidance on a network that takes the scale as an input."""
    return guidance.without_branches() if isinstance(guidance, OneBranchGuidance) else Unguided()

"""Classifier-free guidance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch

from pipelines.core.prediction import Guidance, Prediction
from pipelines.core.registry import setting
from pipelines.core.schedule import Level

__all__ = ["Cfg", "CfgSettings", "OneBranchGuidance", "Unguided", "mix_below_one", "rescale", "without_branches"]


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

    Args:
        settings: the scale and the rescale.
        mixes_below_one: whether a scale below 1 mixes both branches by the formula, as ComfyUI, A1111 and InvokeAI do:
            at 0 the negative prompt alone is followed.

    Source: Ho & Salimans, Classifier-free diffusion guidance, arXiv:2207.12598, equation 6 (there 1 + w).
    """

    perturbation = None

    def __init__(self, settings: CfgSettings = CfgSettings(), mixes_below_one: bool = False):
        self.guidance_scale = settings.guidance_scale
        self.mixes_below_one = mixes_below_one
        self.guidance_rescale = settings.guidance_rescale

    def plan(self, level: Level) -> tuple[str, ...]:
        is_mixed = self.guidance_scale > 1 or (self.mixes_below_one and self.guidance_scale < 1)
        return ("negative", "positive") if is_mixed else ("positive",)

    def combine(self, branches: Mapping[str, Prediction]) -> Prediction:
        positive = branches["positive"]
        if "negative" not in branches:
            return positive
        negative = branches["negative"].raw
        guided = negative + self.guidance_scale * (positive.raw - negative)
        if self.guidance_rescale:
            guided = rescale(guided, positive.raw, self.guidance_rescale)
        return positive.with_raw(guided)


def mix_below_one(guidance: Guidance) -> Guidance:
    """Return a guidance as it is, but classifier-free guidance so that it mixes both branches below a scale of 1."""
    if not isinstance(guidance, Cfg):
        return guidance
    return Cfg(CfgSettings(guidance.guidance_scale, guidance.guidance_rescale), mixes_below_one=True)


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

"""Guidance away from a perturbed network: PAG, SEG and SLG."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from pipelines.core.branches import PERTURBED
from pipelines.core.prediction import Perturbation, Prediction
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.guidance.perturbations import PLACES, BlurredQueries, IdentityAttention, RoundedWeights, SkippedBlocks
from pipelines.guidance.two_branch import TwoBranchGuidance, guide, needs_two_branches

__all__ = [
    "Autoguidance",
    "AutoguidanceSettings",
    "PerturbedAttention",
    "PerturbedAttentionSettings",
    "SkippedLayers",
    "SkippedLayersSettings",
    "SmoothedEnergy",
    "SmoothedEnergySettings",
    "has_skipped_blocks",
    "needs_joint_blocks",
    "needs_self_attention",
]

_USUAL_BLOCKS = 24
"""Of Stable Diffusion 3.5 medium, whose authors' numbers are the defaults."""

_SCALE = "How strongly the picture follows the prompt; at 1 the negative prompt is left out."


def needs_self_attention(traits: Traits) -> str | None:
    """Say why a model has no UNet whose self-attention could be perturbed."""
    if traits.backbone == "transformer":
        return "it has no UNet, whose self-attention is perturbed. Skip-layer guidance is for transformers"
    return needs_two_branches(traits)


def needs_joint_blocks(traits: Traits) -> str | None:
    """Say why a model has no joint transformer whose blocks could be left out."""
    if traits.family != "sd3":
        return "it has no joint transformer of Stable Diffusion 3, whose blocks are left out"
    return needs_two_branches(traits)


@dataclasses.dataclass(frozen=True)
class PerturbedAttentionSettings:
    guidance_scale: float = setting(4.0, _SCALE, low=0, high=30, step=0.1)
    perturbed_scale: float = setting(
        3.0,
        "How strongly the picture moves away from what the network draws without attention.",
        low=0,
        high=20,
        step=0.1,
    )
    place: str = setting("middle", "The attention layers that are perturbed.", choices=PLACES)


@dataclasses.dataclass(frozen=True)
class SmoothedEnergySettings:
    guidance_scale: float = setting(4.0, _SCALE, low=0, high=30, step=0.1)
    perturbed_scale: float = setting(
        3.0, "How strongly the picture moves away from what blurred attention draws.", low=0, high=20, step=0.1
    )
    blur: float = setting(
        10.0, "Standard deviation of the blur, in tokens; 0 takes the mean of all.", low=0, high=50, step=0.5
    )
    place: str = setting("middle", "The attention layers that are perturbed.", choices=PLACES)


@dataclasses.dataclass(frozen=True)
class SkippedLayersSettings:
    guidance_scale: float = setting(4.0, _SCALE, low=0, high=30, step=0.1)
    perturbed_scale: float = setting(
        2.8, "How strongly the picture moves away from what fewer blocks draw.", low=0, high=20, step=0.1
    )
    first_block: int = setting(7, "First block that is left out, from 0.", low=0, high=60, step=1)
    last_block: int = setting(9, "Last block that is left out.", low=0, high=60, step=1)
    sigma_low: float = setting(
        0.92, "Share of noise below which all blocks are used; 0 leaves them out to the end.", low=0, high=1, step=0.01
    )


@dataclasses.dataclass(frozen=True)
class AutoguidanceSettings:
    guidance_scale: float = setting(4.0, _SCALE, low=0, high=30, step=0.1)
    perturbed_scale: float = setting(
        1.0,
        "How strongly the picture moves away from what the worse network draws; 0 for none.",
        low=0,
        high=20,
        step=0.1,
    )
    bits: int = setting(6, "Bits of the worse network's weights.", low=2, high=8, step=1)


def has_skipped_blocks(settings: SkippedLayersSettings, traits: Traits) -> str | None:
    """Say why a transformer has none of the blocks that are left out; None while its depth isn't known."""
    first, last, count = settings.first_block, settings.last_block, traits.joint_blocks
    if not settings.perturbed_scale:
        return None
    if first > last:
        return f"no block is from {first} to {last}. Choose a last block that is not before the first"
    if not count or first < count:
        return None
    defaults = SkippedLayersSettings()
    lower = " to ".join(
        str(round(block * count / _USUAL_BLOCKS)) for block in (defaults.first_block, defaults.last_block)
    )
    return f"its transformer has {count} blocks, none from {first} to {last}. Choose lower ones, such as {lower}"


class _PerturbedGuidance(TwoBranchGuidance):
    """Computes U + w (C - U) + s (C - P) with the perturbed network's P; C + s (C - P) up to w = 1; s = 0 is plain."""

    def __init__(self, guidance_scale: float, perturbed_scale: float, perturbation: Perturbation):
        super().__init__(guidance_scale)
        self.perturbed_scale = perturbed_scale
        self.perturbation = perturbation

    def plan(self, level: Level) -> tuple[str, ...]:
        return (*super().plan(level), *((PERTURBED,) if self.perturbed_scale else ()))

    def combine(self, branches: Mapping[str, Prediction]) -> Prediction:
        positive = branches["positive"]
        if "negative" not in branches and PERTURBED not in branches:
            return positive
        raw = positive.raw
        if "negative" in branches:
            raw = guide(branches["negative"].raw, positive.raw, self.guidance_scale)
        if PERTURBED in branches:
            raw = raw + self.perturbed_scale * (positive.raw - branches[PERTURBED].raw)
        return positive.with_raw(raw)


class PerturbedAttention(_PerturbedGuidance):
    """Guides away from a network whose self-attention sees nothing (PAG): one evaluation more a step.

    Source: Ahn et al., Self-rectifying diffusion sampling with perturbed-attention guidance, arXiv:2403.17377,
        equations 13 and 15; scale 3 and the middle block are its section 5's for Stable Diffusion.
    """

    def __init__(self, settings: PerturbedAttentionSettings = PerturbedAttentionSettings()):
        super().__init__(settings.guidance_scale, settings.perturbed_scale, IdentityAttention(settings.place))


class SmoothedEnergy(_PerturbedGuidance):
    """Guides away from a network whose attention is blurred (SEG): one evaluation more a step.

    Source: Hong, Smoothed energy guidance: Guiding diffusion models with reduced energy curvature of attention,
        arXiv:2408.00760, equation 12; scale 3, sigma 10 and the middle block are among its section 5's.
    """

    def __init__(self, settings: SmoothedEnergySettings = SmoothedEnergySettings()):
        blur = BlurredQueries(settings.blur or math.inf, settings.place)
        super().__init__(settings.guidance_scale, settings.perturbed_scale, blur)


class SkippedLayers(_PerturbedGuidance):
    """Guides away from a transformer that leaves blocks out (SLG), at high noise only: one evaluation more there.

    Source: Stability AI's inference code for Stable Diffusion 3.5 medium: blocks 7 to 9, scale 2.8.
    Differs: they leave blocks out in the steps from 1 to 20 per cent of a run; here the share of noise decides, and
        0.92 is where those steps end on their schedule of shift 3.
    """

    def __init__(self, settings: SkippedLayersSettings = SkippedLayersSettings()):
        skipped = SkippedBlocks(settings.first_block, settings.last_block)
        super().__init__(settings.guidance_scale, settings.perturbed_scale, skipped)
        self.sigma_low = settings.sigma_low

    def plan(self, level: Level) -> tuple[str, ...]:
        planned = super().plan(level)
        share = level.sigma / (level.alpha + level.sigma)
        return planned if share >= self.sigma_low else tuple(name for name in planned if name != PERTURBED)


class Autoguidance(_PerturbedGuidance):
    """Guides away from a worse version of the network, whose weights are rounded coarsely: one evaluation more a step.

    With guidance scale 1 it is C + s (C - P), the paper's w being 1 + s.

    Source: Karras et al., Guiding a diffusion model with a bad version of itself, arXiv:2406.02507, equation 6.
    Differs: the paper's worse version is a smaller network that was trained less. Here it is the same network with
        coarser weights, so that no second file is needed; its errors need not be those of the whole one, only larger.
    """

    def __init__(self, settings: AutoguidanceSettings = AutoguidanceSettings()):
        super().__init__(settings.guidance_scale, settings.perturbed_scale, RoundedWeights(settings.bits))

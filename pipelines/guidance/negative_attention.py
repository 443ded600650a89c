"""Negative prompts for models of few steps: the network's attention leads away from them, in one evaluation."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Generator, Mapping

import torch

from pipelines.core.prediction import Conditioning, Guidance, Perturbation, Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.guidance.attention_pairs import AttentionPairs, join_texts
from pipelines.guidance.two_branch import TwoBranchGuidance, guide

__all__ = [
    "NegativeAway",
    "NegativeAwaySettings",
    "NormalizedAttention",
    "NormalizedAttentionSettings",
    "needs_attention_to_text",
]

_SCALE = "Classifier-free guidance beside it; 1 for none, as models of few steps want it."
_FAMILIES = ("sd", "sdxl", "sd3", "flux")


def needs_attention_to_text(traits: Traits) -> str | None:
    """Say why a model has no attention to the prompt that could be led away from another one."""
    if traits.backbone == "pipeline":
        return "it runs through its own pipeline, which brings its own guidance. Choose Classifier-free guidance"
    if traits.family not in _FAMILIES:
        return "its frames see each other, and this guidance knows single pictures alone"
    return None


@dataclasses.dataclass(frozen=True)
class NormalizedAttentionSettings:
    guidance_scale: float = setting(1.0, _SCALE, low=0, high=30, step=0.1)
    negative_scale: float = setting(
        5.0, "How strongly attention moves away from the negative prompt; 1 for not at all.", low=1, high=20, step=0.1
    )
    tau: float = setting(
        2.5, "Longest guided attention, in lengths of the prompt's own.", low=1, high=10, step=0.1, label="Limit"
    )
    blend: float = setting(0.25, "Share of the guided attention.", low=0, high=1, step=0.05)


@dataclasses.dataclass(frozen=True)
class NegativeAwaySettings:
    guidance_scale: float = setting(1.0, _SCALE, low=0, high=30, step=0.1)
    negative_scale: float = setting(
        0.4, "Share of the attention to the negative prompt that is taken away; 0 for none.", low=0, high=2, step=0.05
    )


class _NegativeAttention(TwoBranchGuidance):
    """Evaluates the prompt with attention to both texts, and the negative prompt only where the scale is above 1."""

    def __init__(self, guidance_scale: float, pairs: AttentionPairs, is_neutral: bool):
        super().__init__(guidance_scale)
        self.patch: Perturbation | None = None if is_neutral else pairs

    def ask(self, query: Query) -> Generator[Query, Prediction, Prediction]:
        if self.patch is None:
            return (yield query)
        inner = query.conditioning

        def join(branch: str, conditionings: Mapping[str, Conditioning]) -> Conditioning:
            one = inner(branch, conditionings) if inner else conditionings[branch]
            negative = inner("negative", conditionings) if inner else conditionings["negative"]
            return join_texts(one, negative)

        led = dataclasses.replace(query, patch=self.patch, conditioning=join, branches=("positive",))
        positive = yield led
        if "negative" not in self.plan(query.level):
            return dataclasses.replace(positive, branches={})
        negative = yield dataclasses.replace(query, branches=("negative",))
        return positive.with_raw(guide(negative.raw, positive.raw, self.guidance_scale))

    def further_evaluations(self, level: Level) -> int:
        return 0

    def without_branches(self) -> Guidance:
        """Return what it is on a network that takes the guidance scale as an input."""
        alone = copy.copy(self)
        alone.guidance_scale = 1.0
        return alone

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        return guide(negative.raw, positive.raw, self.guidance_scale)


class NormalizedAttention(_NegativeAttention):
    """Leads attention away from the negative prompt, bounded in length and blended (NAG).

    Z = (1 - a) Z+ + a Z~, where Z~ = s Z+ - (s - 1) Z- is shortened to tau times the L1 norm of Z+. At scale 1 it is
    classifier-free guidance.

    Source: Chen et al., Normalized attention guidance: Universal negative guidance for diffusion models,
        arXiv:2505.21179; scale 5, tau 2.5 and blend 0.25 are their code's for FLUX.1 schnell.
    Differs: in a joint transformer both texts go through the network in one row, so that the negative one is modulated
        by the prompt's pooled text, and the picture's projections are computed twice. Their code bounds the L2 norm,
        their paper the L1 norm, and so does this.
    """

    def __init__(self, settings: NormalizedAttentionSettings = NormalizedAttentionSettings()):
        scale = settings.negative_scale
        pairs = AttentionPairs(scale - 1, scale - 1, settings.tau, settings.blend)
        super().__init__(settings.guidance_scale, pairs, scale == 1 or not settings.blend)


class NegativeAway(_NegativeAttention):
    """Takes a share of the attention to the negative prompt away from that to the prompt: Z+ - a Z- (NASA).

    With scale 0 it is classifier-free guidance.

    Source: Nguyen et al., SNOOPI: Supercharged one-step diffusion distillation with proper guidance,
        arXiv:2412.02687, negative-away steer attention, for U-Nets' cross-attention. The default is ours.
    Differs: of a joint transformer, whose attention they do not lead, the picture's part of the attention is.
    """

    def __init__(self, settings: NegativeAwaySettings = NegativeAwaySettings()):
        scale = settings.negative_scale
        super().__init__(settings.guidance_scale, AttentionPairs(0.0, scale), not scale)

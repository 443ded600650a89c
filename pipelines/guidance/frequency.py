"""Frequency-decoupled guidance (FDG): one scale for coarse shapes, another for detail."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from pipelines.core.devices import upload
from pipelines.core.prediction import Prediction
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.guidance.two_branch import TwoBranchGuidance, guide

__all__ = ["FrequencyDecoupled", "FrequencySettings", "low_pass"]

_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


@dataclasses.dataclass(frozen=True)
class FrequencySettings:
    guidance_scale: float = setting(
        8.0, "Guidance of detail; stronger sharpens.", low=0, high=30, step=0.1, label="Scale of detail"
    )
    low_frequency_scale: float = setting(
        4.0, "Guidance of coarse shapes and colors; weaker keeps variety and natural color.", low=0, high=30, step=0.1
    )


def low_pass(latents: torch.Tensor) -> torch.Tensor:
    """Take the coarse level of a two-level Laplacian pyramid, at full size.

    Args: latents: (B, C, h, w). Returns: (B, C, h, w): blurred by a 5 x 5 binomial kernel, halved, doubled, blurred.
    """
    size = latents.shape[-2:]
    small = F.interpolate(_blur(latents), size=[max(1, side // 2) for side in size], mode="bilinear")
    return _blur(F.interpolate(small, size=size, mode="bilinear"))


def _blur(latents: torch.Tensor) -> torch.Tensor:
    channels = latents.shape[1]
    kernel = upload(torch.tensor(_BINOMIAL), latents.device, latents.dtype)
    pads = [
        (min(2, side - 1), 2 - min(2, side - 1)) for side in latents.shape[-2:]
    ]  # mirrored, repeated where too small
    (tall, tall_rest), (wide, wide_rest) = pads
    padded = F.pad(latents, (wide, wide, tall, tall), mode="reflect")
    padded = F.pad(padded, (wide_rest, wide_rest, tall_rest, tall_rest), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 5, 1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, 1, 5).repeat(channels, 1, 1, 1), groups=channels)


class FrequencyDecoupled(TwoBranchGuidance):
    """Guides the two levels of a Laplacian pyramid by scales of their own; equal ones are classifier-free guidance.

    As the pyramid is linear, U + w_high D + (w_low - w_high) P D of the difference D = C - U and its coarse part P D.

    Source: Sadat et al., Guidance in the frequency domain enables high-fidelity sampling at low CFG scales,
        arXiv:2506.19713, algorithm 1 (its two levels).
    Differs: no projection of the levels' differences (the paper's option); the defaults are 2 : 1, as the paper's for
        Stable Diffusion XL are, at a lower height.
    """

    def __init__(self, settings: FrequencySettings = FrequencySettings()):
        super().__init__(settings.guidance_scale)
        self.low_frequency_scale = settings.low_frequency_scale

    def plan(self, level: Level) -> tuple[str, ...]:
        return ("negative", "positive") if max(self.guidance_scale, self.low_frequency_scale) > 1 else ("positive",)

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        guided = guide(negative.raw, positive.raw, self.guidance_scale)
        if self.low_frequency_scale == self.guidance_scale:
            return guided
        return guided + (self.low_frequency_scale - self.guidance_scale) * low_pass(positive.raw - negative.raw)

"""Latent upscale: the latents themselves are interpolated."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from pipelines.core.registry import setting
from pipelines.second_passes.base import MOST_FACTOR, EnlargeContext

__all__ = ["LatentUpscale", "LatentUpscaleSettings"]


@dataclasses.dataclass(frozen=True)
class LatentUpscaleSettings:
    factor: float = setting(2.0, "How many times wider and higher.", low=1, high=MOST_FACTOR, step=0.25)
    strength: float = setting(
        0.6,
        "Share of the steps that are run again at the new size; below about 0.5 the picture stays blurred.",
        low=0.05,
        high=1,
        step=0.05,
        label="Denoising strength",
    )
    interpolation: str = setting(
        "bicubic", "How values between two latents are found.", choices=("nearest", "bilinear", "bicubic")
    )


class LatentUpscale:
    """Interpolates the latents; costs nothing, and needs much denoising, since such latents are of no sharp picture.

    Source: AUTOMATIC1111 and contributors, stable-diffusion-webui, `modules/processing.py` (sample_hr_pass), the
        upscalers "Latent", "Latent (bicubic)" and "Latent (nearest-exact)".
    """

    upscaler = ""

    def __init__(self, settings: LatentUpscaleSettings = LatentUpscaleSettings()):
        self.factor, self.strength = settings.factor, settings.strength
        self._mode = {"nearest": "nearest-exact"}.get(settings.interpolation, settings.interpolation)

    def enlarge(self, latents: torch.Tensor, context: EnlargeContext) -> torch.Tensor:
        return F.interpolate(latents, context.family.latent_shape(*context.size)[1:], mode=self._mode)

"""Pixel upscale: the picture is decoded, enlarged by a network, and encoded again."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from pipelines.core.registry import setting
from pipelines.second_passes.base import MOST_FACTOR, EnlargeContext
from pipelines.upscaling.enlarge import enlarge
from pipelines.upscaling.upscalers import DEFAULT_UPSCALER

__all__ = ["PixelUpscale", "PixelUpscaleSettings"]


@dataclasses.dataclass(frozen=True)
class PixelUpscaleSettings:
    factor: float = setting(2.0, "How many times wider and higher.", low=1, high=MOST_FACTOR, step=0.25)
    strength: float = setting(
        0.4,
        "Share of the steps that are run again at the new size, at least one step.",
        low=0.05,
        high=1,
        step=0.05,
        label="Denoising strength",
    )
    upscaler: str = setting(DEFAULT_UPSCALER, "The network that enlarges, or lanczos for plain resampling.")


class PixelUpscale:
    """Decodes, enlarges in pixels and encodes: the picture is sharp already, and little denoising is enough.

    Source: AUTOMATIC1111 and contributors, stable-diffusion-webui, `modules/processing.py` (sample_hr_pass), the
        upscalers of the models folder.
    """

    def __init__(self, settings: PixelUpscaleSettings = PixelUpscaleSettings()):
        self.factor, self.strength, self.upscaler = settings.factor, settings.strength, settings.upscaler

    def enlarge(self, latents: torch.Tensor, context: EnlargeContext) -> torch.Tensor:
        network = context.find_upscaler(self.upscaler)
        pictures = (context.family.decode(latents).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        device = context.family.device
        larger = np.stack(
            [enlarge(one, network, context.size, device, cancelled=context.cancelled) for one in pictures]
        )
        return context.family.encode_images(torch.from_numpy(larger).permute(0, 3, 1, 2).float() / 255)

"""IP-Adapter: a picture as a part of the prompt.

What the network is given is in `pipelines.families.image_prompt`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from pipelines.controls.window import StepWindow, WindowedTensors
from pipelines.core.registry import setting
from pipelines.families.base import Family
from pipelines.families.image_prompt import IMAGE_SCALE, IMAGE_TOKENS, require_attentions
from pipelines.families.latent_model import LatentModel

__all__ = ["ImagePrompt", "IpAdapterSettings"]

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained on."""


@dataclasses.dataclass(frozen=True)
class IpAdapterSettings:
    """Settings of an IP-Adapter; which one, and of what."""

    model: str = setting("", "An IP-Adapter of the models folder.", label="IP-Adapter")
    picture: str = setting("", "The picture that is a part of the prompt.", label="Prompt picture")
    strength: float = setting(0.6, "Factor on what the picture says; 0 says nothing.", low=0, high=2, step=0.05)
    begin: float = setting(0.0, "Share of the steps after which it begins.", low=0, high=1, step=0.05, label="From")
    end: float = setting(1.0, "Share of the steps after which it ends.", low=0, high=1, step=0.05, label="To")


class ImagePrompt:
    """Makes a picture a part of the prompt.

    Source: Ye et al., IP-Adapter, arXiv:2308.06721.
    Differs: it can begin and end within a run, as a ControlNet can.
    """

    def __init__(self, settings: IpAdapterSettings = IpAdapterSettings()):
        self.settings = settings

    def build(
        self, family: Family | LatentModel, pixels: np.ndarray, shares: Sequence[float]
    ) -> WindowedTensors | None:
        """Prepare what the evaluations of a run are given; None for a neutral one.

        Args:
            family: with the components "ip_adapter" and "image_encoder".
            pixels: the picture, (H, W, 3), uint8.
            shares: of the strength, for each sample of the run.
        """
        if self.settings.strength == 0:
            return None
        encoder, adapter = family.components["image_encoder"], family.components["ip_adapter"]
        require_attentions(adapter, family.network)
        tokens, nothing = adapter.encode(encoder, normalize_picture(pixels, encoder.config.image_size))
        scale = self.settings.strength * torch.tensor(shares, device=family.device)
        branches = {
            branch: {IMAGE_TOKENS: one.to(family.device).repeat(len(shares), 1, 1), IMAGE_SCALE: scale}
            for branch, one in (("positive", tokens), ("negative", nothing))
        }
        return WindowedTensors(branches, StepWindow(self.settings.begin, self.settings.end))


def normalize_picture(pixels: np.ndarray, side: int) -> torch.Tensor:
    """Bring a picture to what CLIP's encoder takes: the shorter side scaled, the middle cut out, normalized.

    Args:
        pixels: (H, W, 3), uint8.
        side: of what the encoder takes, in pixels.

    Returns:
        (1, 3, side, side), float32.
    """
    height, width = pixels.shape[:2]
    scale = side / min(width, height)
    size = (side, int(height * scale)) if width <= height else (int(width * scale), side)
    scaled = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    middle = torch.from_numpy(scaled[top : top + side, left : left + side].astype(np.float32) / 255)
    normalized = (middle - torch.tensor(_MEAN)) / torch.tensor(_STD)
    return normalized.permute(2, 0, 1)[None]

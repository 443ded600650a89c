"""ControlNet: a copy of the network's encoder reads lines, depth or a pose and adds to the network's layers.

What there is of it for the families is in `pipelines.families.controlnet`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from pipelines.controls.pictures import MapSettings, make_map, to_tensor
from pipelines.controls.window import StepWindow, WindowedTensors
from pipelines.core.registry import setting
from pipelines.families.base import Family
from pipelines.families.controlnet import CONTROL, CONTROL_SCALE, ControlledFamily
from pipelines.families.latent_model import LatentModel

__all__ = ["ControlNet", "ControlNetSettings"]


@dataclasses.dataclass(frozen=True)
class ControlNetSettings(MapSettings):
    """Settings of a ControlNet; which one, and of what."""

    model: str = setting("", "A ControlNet of the models folder.", label="ControlNet")
    picture: str = setting("", "The picture that steers.", label="Control picture")
    strength: float = setting(1.0, "Factor on what the ControlNet adds; 0 adds nothing.", low=0, high=2, step=0.05)


class ControlNet:
    """Steers a run by a picture.

    Source: Zhang, Rao & Agrawala, Adding conditional control to text-to-image diffusion models, arXiv:2302.05543.
    Differs: the latents of a picture that a ControlNet of SD3 or FLUX.1 reads are the posterior's mean, where diffusers
        draws a sample of it.
    """

    def __init__(self, settings: ControlNetSettings = ControlNetSettings()):
        self.settings = settings

    def make_map(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Make what the ControlNet reads, (H, W, 3), uint8, of the picture at a size (width, height)."""
        own = self.settings
        return make_map(pixels, size, own.fit, own.map, (own.low, own.high))

    def build(
        self, family: Family | LatentModel, pixels: np.ndarray, size: tuple[int, int], shares: Sequence[float]
    ) -> WindowedTensors | None:
        """Prepare what the evaluations of a run are given; None for a neutral one.

        Args:
            family: with the component "controlnet".
            pixels: the picture, (H, W, 3), uint8.
            size: (width, height) of the run.
            shares: of the strength, for each sample of the run.
        """
        if self.settings.strength == 0 or not isinstance(family, ControlledFamily):
            return None
        control = family.prepare_control(to_tensor(self.make_map(pixels, size)))
        control = control.to(family.device).repeat(len(shares), *(1,) * (control.ndim - 1))
        scale = self.settings.strength * torch.tensor(shares, device=family.device)
        tensors = {CONTROL: control, CONTROL_SCALE: scale}
        window = StepWindow(self.settings.begin, self.settings.end)
        return WindowedTensors({"positive": tensors, "negative": tensors}, window)

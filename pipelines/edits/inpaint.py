"""Inpainting and outpainting by blended latents: new inside the mask, the picture's own outside."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch

from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.edits.base import EditContext, UnpatchedEdit

__all__ = ["AREAS", "Blended", "Inpaint", "InpaintSettings", "Outpaint", "OutpaintSettings"]


AREAS = ("whole picture", "only masked")


@dataclasses.dataclass(frozen=True)
class InpaintSettings:
    strength: float = setting(
        1.0,
        "Share of the steps that are run: 1 draws the masked part anew, less starts from what is there.",
        low=0,
        high=1,
        step=0.05,
        label="Denoising strength",
    )
    mask_blur: float = setting(
        0.0,
        "Pixels of the picture over which the mask fades; where it is 0 nothing changes.",
        low=0,
        high=64,
        step=1,
    )
    area: str = setting(
        "whole picture",
        "Only masked draws the part around the mask at the model's own size and puts it back into the picture.",
        choices=AREAS,
        label="What is drawn",
    )
    padding: int = setting(
        32, "Pixels around the mask that the model sees, where only the masked part is drawn.", low=0, high=512, step=4
    )


@dataclasses.dataclass(frozen=True)
class OutpaintSettings:
    left: int = setting(0, "Pixels added on the left, at the size the model draws.", low=0, high=1024, step=16)
    top: int = setting(0, "Pixels added above.", low=0, high=1024, step=16)
    right: int = setting(32, "Pixels added on the right.", low=0, high=1024, step=16)
    bottom: int = setting(0, "Pixels added below.", low=0, high=1024, step=16)


class Blended:
    """A sampler after whose every step the latents outside the mask are the picture's, at the same noise level.

    z' = m * z + (1 - m) * (alpha' * z0 + sigma' * n) with one noise n for the whole run; after the last step the
    second is z0 itself, bit for bit where m is 0, wherever the schedule ends.

    Args:
        inner: any sampler.
        image_latents, noise: z0 and n, (1, C, h, w).
        mask: m, (1, 1, h, w), from 0 outside to 1 inside.

    Source: Avrahami et al., Blended latent diffusion, arXiv:2206.02779, algorithm 1.
    Differs: the background has the noise level after the step, as in diffusers; the authors' code gives it the
    level before.
    """

    def __init__(self, inner: Sampler, image_latents: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor):
        self.inner, self.image_latents, self.noise, self.mask = inner, image_latents, noise, mask.to(image_latents)

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        next_state = yield from self.inner.step(state, level, next_level, context)
        outside = self.image_latents
        if context.index + 1 < context.num_steps:
            outside = next_level.alpha * self.image_latents + next_level.sigma * self.noise
        denoised = None if next_state.denoised is None else self._mix(next_state.denoised, self.image_latents)
        return dataclasses.replace(next_state, latents=self._mix(next_state.latents, outside), denoised=denoised)

    def _mix(self, inside: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
        return self.mask * inside + (1 - self.mask) * outside

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)


class Inpaint(UnpatchedEdit):
    """Draws the masked part anew by a text-to-image model. Source: as `Blended`."""

    masked = True

    def __init__(self, settings: InpaintSettings = InpaintSettings()):
        self.strength = settings.strength
        self.mask_blur, self.padding = settings.mask_blur, settings.padding
        self.is_cropped = settings.area == AREAS[1]

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        yield Blended(context.sampler, context.image_latents, context.noise, context.drawn_weights)


class Outpaint(Inpaint):
    """Inpaints the margins of an enlarged canvas. Source: as `Blended`."""

    masked = False

    def __init__(self, settings: OutpaintSettings = OutpaintSettings()):
        super().__init__()
        self.margins = (settings.left, settings.top, settings.right, settings.bottom)

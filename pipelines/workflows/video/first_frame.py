"""The picture that a clip starts from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level

if TYPE_CHECKING:
    from pipelines.core.prediction import Prediction

__all__ = ["GivenFrame", "fit_picture"]


class GivenFrame:
    """A sampler whose network sees the clip's first frame without noise at every evaluation, and which leaves it alone.

    Args:
        inner: any sampler.
        image_latents: of the first frame, (1, C, h, w), scaled.

    Source: Chen et al., Diffusion Forcing, arXiv:2407.01392, whose frames have noise levels of their own; the first
        one here never has noise.
    Differs: the network is trained so, but not told which level a frame has.
    """

    def __init__(self, inner: Sampler, image_latents: torch.Tensor):
        self.inner, self.image_latents = inner, image_latents

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        stepping = self.inner.step(
            dataclasses.replace(state, latents=self._give(state.latents)), level, next_level, context
        )
        prediction: Prediction | None = None
        while True:
            try:
                query = stepping.send(prediction)  # type: ignore[arg-type]  # a generator is begun with None
            except StopIteration as end:
                after: State = end.value
                break
            prediction = yield dataclasses.replace(query, latents=self._give(query.latents))
        denoised = None if after.denoised is None else self._give(after.denoised)
        return dataclasses.replace(after, latents=self._give(after.latents), denoised=denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)

    def _give(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.image_latents.to(latents), latents[1:]])


def fit_picture(pixels: np.ndarray, width: int, height: int) -> Image.Image:
    """Return the first frame at the clip's size, its middle where it has other proportions.

    Args:
        pixels: (H, W, 3) uint8.
        width, height: of the clip in pixels; 0 for the picture's own.
    """
    picture = Image.fromarray(pixels)
    width, height = width or picture.width, height or picture.height
    scale = min(picture.width / width, picture.height / height)
    spare = (picture.width - scale * width) / 2, (picture.height - scale * height) / 2
    box = (spare[0], spare[1], picture.width - spare[0], picture.height - spare[1])
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box)

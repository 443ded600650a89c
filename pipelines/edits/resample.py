"""ReSample: a spoiled picture restored by a latent diffusion model whose estimates are fitted to what is left."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import torch

from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping, interpolate
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.edits.degradations import DAMAGES, Degradation
from pipelines.edits.flow_chef import Residual, descend

__all__ = ["ReSample", "ReSampleSettings", "Resampled", "fits_resample", "resample"]

_ACTIVE = 2 / 3
"""Share of the steps, counted from the last, in which estimates are fitted; above a third of them in pixels."""
_PIXELS = 1 / 3
_GAMMA = 40.0
"""Of the variance that weighs the fitted estimate against the path."""


@dataclasses.dataclass(frozen=True)
class ReSampleSettings:
    """The settings of ReSample."""

    damage: str = setting(
        DAMAGES[0], "What happened to the picture. Of a missing part, draw over it.", choices=DAMAGES, label="Damage"
    )
    factor: int = setting(4, "Of low resolution: how many pixels of the result are one of the source.", low=2, high=8)
    blur: float = setting(2.0, "Of a blur: its standard deviation in pixels.", low=0.5, high=20, step=0.5)
    every: int = setting(3, "An estimate is fitted in every so manyth step.", low=1, high=20)
    descents: int = setting(
        20, "Steps of descent in each fit, at most; the later ones decode the picture, with gradients.", low=1, high=200
    )
    strength: float = setting(
        1.0, "Share of the steps that are run: less starts from the picture as it is.", low=0.05, high=1, step=0.05
    )


def fits_resample(traits: Traits) -> str | None:
    """Say why not, or return None."""
    if traits.backbone == "pipeline":
        return "it runs through its own pipeline only"
    return (
        "it is made for diffusion models, and this is a flow model. Choose FlowChef: restore" if traits.flow else None
    )


def resample(
    fitted: torch.Tensor, latents: torch.Tensor, level: Level, next_level: Level, noise: torch.Tensor
) -> torch.Tensor:
    """Draw latents at a level between a fitted estimate and the path.

    N((v alpha z + sigma^2 x) / (v + sigma^2), v sigma^2 / (v + sigma^2)), alpha and sigma of the level that is gone to,
    v = gamma (sigma'^2 / sigma^2) (1 - alpha^2 / alpha'^2), gamma = 40.

    Args:
        fitted: z, (B, C, h, w), the estimate of x0.
        latents: x, the path at `next_level`.
        level, next_level: of the step.
        noise: (B, C, h, w), unit normal.

    Source: Song et al., Solving inverse problems with latent diffusion models via hard data consistency,
    arXiv:2307.08123, proposition 1 and equation 14.
    """
    variance = next_level.sigma**2
    if variance == 0:
        return fitted
    weight = _GAMMA * variance / level.sigma**2 * (1 - level.alpha**2 / next_level.alpha**2)
    mean = (weight * next_level.alpha * fitted + variance * latents) / (weight + variance)
    spread: torch.Tensor = mean + (weight * variance / (weight + variance)) ** 0.5 * noise
    return spread


class Resampled:
    """A DDIM sampler whose estimates are fitted to what was given, and noised again, in some of its steps.

    Args:
        residual: A(D(z)) - y.
        encode: pixels to latents.
        every, descents: as in the settings.

    Source: as `resample`, algorithm 1.
    Differs: the lookahead of five steps before each fit is left out; descent is with a line search instead of AdamW,
    so that fewer steps do; the last step is fitted too, so that the picture that comes out is the given one when it is
    spoiled, as well as the decoder can.
    """

    def __init__(self, residual: Residual, encode: Callable[[torch.Tensor], torch.Tensor], every: int, descents: int):
        self.residual, self.encode, self.every, self.descents = residual, encode, every, descents

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction: Prediction = yield Query(state.latents, level)
        left = (context.num_steps - context.index) / context.num_steps
        last = context.index + 1 == context.num_steps
        if not last and (left > _ACTIVE or context.index % self.every):
            return State(interpolate(prediction, next_level), prediction.denoised)
        fitted = self._fit(prediction.denoised, left > _PIXELS)
        path = interpolate(prediction, next_level)
        noise = context.noise(fitted) if next_level.sigma else fitted
        return State(resample(fitted, path, level, next_level, noise), fitted)

    def _fit(self, denoised: torch.Tensor, in_pixels: bool) -> torch.Tensor:
        if not in_pixels:
            return descend(denoised, self.residual, self.descents)
        pixels = self.residual.pictures.decode(denoised).detach()
        fitted = descend(pixels, self.residual.of_pixels, self.descents)
        return self.encode(fitted.clamp(0, 1)).to(denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


class ReSample(UnpatchedEdit):
    """Restores a picture of low resolution, blurred, in parts missing or overexposed. Source: as `Resampled`."""

    def __init__(self, settings: ReSampleSettings = ReSampleSettings()):
        self.settings, self.strength = settings, settings.strength
        self.masked = settings.damage == DAMAGES[2]

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        settings, pictures = self.settings, context.pictures
        residual = Residual(Degradation(settings.damage, settings.factor, settings.blur, pictures.mask), pictures)
        yield Resampled(residual, pictures.encode, settings.every, settings.descents)

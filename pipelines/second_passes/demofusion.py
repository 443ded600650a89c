"""DemoFusion: a large picture from a network of small ones, led by the small picture that came before."""

from __future__ import annotations

import dataclasses
import math

import torch

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.loop import Run
from pipelines.core.registry import setting
from pipelines.core.sampler import State
from pipelines.core.types import Step
from pipelines.second_passes.base import MOST_FACTOR, EnlargeContext, PassStart, enlarge_latents
from pipelines.second_passes.views import ViewedNetwork, cosine_factor

__all__ = ["DemoFusion", "DemoFusionSettings"]


@dataclasses.dataclass(frozen=True)
class DemoFusionSettings:
    factor: float = setting(2.0, "How many times wider and higher: a whole number.", low=1, high=MOST_FACTOR, step=1)
    strength: float = setting(
        0.5, "Share of the steps that are run at the new size.", low=0.05, high=1, step=0.05, label="Denoising strength"
    )
    residual: float = setting(
        1.0, "How strongly the small picture leads the early steps; 0 for not at all.", low=0, high=1, step=0.05
    )
    dilated: float = setting(
        1.0,
        "How strongly grids over the whole picture count beside windows; 0 for windows alone.",
        low=0,
        high=1,
        step=0.05,
    )
    sigma: float = setting(0.8, "Blur before the grids are taken.", low=0, high=3, step=0.1)

    def __post_init__(self) -> None:
        if self.factor != int(self.factor):
            raise SettingsError(f"DemoFusion: factor is {self.factor:g}. Choose a whole number: 1, 2, 3 or 4.")


class DemoFusion:
    """Denoises the interpolated latents in windows of the first pass's size and in dilated grids of the whole picture.

    With p the progress of the run and c = (1 + cos(pi p)) / 2, each step begins with (1 - c^3) x + c^3 (alpha x0_up +
    sigma eps), and the grids count with c beside the windows. Factor 1 without a residual is a latent upscale by 1.

    Source: Du et al., DemoFusion: Democratising high-resolution image generation with no $$$, arXiv:2311.16973,
        equations 4 to 6; exponents 3 and 1 and the blur are those of their code.
    Differs: half of the steps by default, where theirs runs all; one jump to the new size, and not one for each whole
        factor; the mean of parts is that of the network's output, which for first-order samplers is that of their
        steps; windows end at the picture's border, and are moved by a fixed sequence in place of chance; each sample
        keeps its own mean and deviation.
    """

    upscaler = ""
    alone = (
        "DemoFusion evaluates a picture in parts, which caches and pictures that steer a run do not know. Leave them "
        "out, or choose another second pass."
    )

    def __init__(self, settings: DemoFusionSettings = DemoFusionSettings()):
        self.factor, self.strength = settings.factor, settings.strength
        self.residual, self.dilated, self.sigma = settings.residual, settings.dilated, settings.sigma

    def enlarge(self, latents: torch.Tensor, context: EnlargeContext) -> torch.Tensor:
        return enlarge_latents(latents, context)

    def steer(self, run: Run, start: PassStart) -> Run:
        """Let the run see the picture in parts, and lead its early steps.

        Raises:
            MethodFitError: a cache or a picture that steers knows whole pictures alone.
        """
        if run.denoiser.cache is not None or run.denoiser.additions:
            raise MethodFitError(self.alone)
        times = [(float(level.timestep), start.progress(index)) for index, level in enumerate(run.levels)]

        def progress(time: float) -> float:
            return min(times, key=lambda one: abs(one[0] - time))[1]

        run.denoiser.network = ViewedNetwork(
            start.family,
            (start.small.shape[-2], start.small.shape[-1]),
            int(self.factor),
            lambda time: self.dilated * cosine_factor(progress(time)),
            lambda time: self.sigma * (0.99 * cosine_factor(progress(time)) + 0.01),
            lambda time: (math.sin(12.9898 * time + 1), math.sin(78.233 * time + 2)),
            run.denoiser.cancelled,
        )

        def lead(state: State, step: Step) -> State:
            share = self.residual * cosine_factor(start.progress(step.index + 1)) ** 3
            if not share or step.index + 1 == step.num_steps:
                return state
            noised = step.next_level.alpha * start.enlarged + step.next_level.sigma * start.noise
            return dataclasses.replace(state, latents=torch.lerp(state.latents, noised, share))

        return dataclasses.replace(run, between=lead)

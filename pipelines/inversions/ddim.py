"""DDIM inversion: the deterministic sampler run backwards."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping, interpolate
from pipelines.core.schedule import Level
from pipelines.core.types import Traits, Trajectory
from pipelines.samplers.ddim import Ddim, DdimSettings

__all__ = ["DdimInversion", "DdimInversionSettings", "ReverseDdim", "fits_ddim_inversion"]


@dataclasses.dataclass(frozen=True)
class DdimInversionSettings:
    guidance_scale: float = setting(
        1.0, "Guidance on the way up; above 1 the way back down misses the source.", low=0, high=15, step=0.1
    )
    strength: float = setting(
        1.0, "Share of the steps that are inverted: less keeps more of the source.", low=0.1, high=1, step=0.05
    )


def fits_ddim_inversion(traits: Traits) -> str | None:
    """Say why not, or return None: a network that returns x0 says nothing about the noise of a clean picture."""
    if traits.backbone == "pipeline":
        return "it runs through its own pipeline only"
    return "its network returns the picture instead of the noise" if traits.prediction_type == "sample" else None


class ReverseDdim:
    """Computes x' = alpha' * D(x) + sigma' * eps_hat from a level to one with more noise, eps_hat taken at the label of
    x'.

    Source: Song et al., arXiv:2010.02502, section 4.3, the ODE in the other direction; Dhariwal & Nichol,
    arXiv:2105.05233, appendix F. For a flow model it is Euler's method reversed.
    """

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        # The way down asks at the noisier level of each pair; so must the way up, or every label is one step off.
        prediction = yield Query(state.latents, dataclasses.replace(level, timestep=next_level.timestep))
        return State(interpolate(prediction, next_level), prediction.denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


class DdimInversion:
    """Inverts with DDIM, and samples the source and the edit freely from where it ends.

    Source: as `ReverseDdim`; as an editing method Mokady et al., Null-text inversion, arXiv:2211.09794, section 3.1.
    """

    is_random = False
    replaces_negative = False
    is_wordless = False
    holds_source = False

    def __init__(self, settings: DdimInversionSettings = DdimInversionSettings()):
        self.scale, self.strength = settings.guidance_scale, settings.strength

    def guidance_scale(self, edit_scale: float) -> float:
        return self.scale

    def start(self, image_latents: torch.Tensor) -> torch.Tensor:
        return image_latents

    def noising(self) -> Sampler:
        return ReverseDdim()

    def denoising(self, trajectory: Trajectory, guidance_scale: float = 1.0) -> Sampler:
        return Ddim(DdimSettings())

    def forked(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.repeat_interleave(2, dim=0)

    def visible(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

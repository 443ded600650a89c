"""RF-Inversion: a flow model's path, led to chosen noise on the way up and to the picture on the way down."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Traits, Trajectory
from pipelines.inversions.ddim import DdimInversion

__all__ = ["Led", "LedUp", "RfInversion", "RfInversionSettings", "fits_rf_inversion"]


@dataclasses.dataclass(frozen=True)
class RfInversionSettings:
    """The settings of RF-Inversion."""

    gamma: float = setting(
        0.5,
        "How strongly the way up is led to fresh noise: 0 is Euler reversed, 1 ends at that noise.",
        low=0,
        high=1,
        step=0.05,
    )
    eta: float = setting(
        0.9,
        "How strongly the way down is led to the picture: 0 is Euler, 1 ends at the picture.",
        low=0,
        high=1,
        step=0.05,
    )
    until: float = setting(
        0.25, "Share of the steps of the way down, from the first, that are led.", low=0, high=1, step=0.05
    )
    strength: float = setting(
        1.0, "Share of the steps that are inverted: less keeps more of the source.", low=0.1, high=1, step=0.05
    )


def fits_rf_inversion(traits: Traits) -> str | None:
    """Say why not, or return None."""
    if traits.backbone == "pipeline":
        return "it runs through its own pipeline only"
    return None if traits.flow else "it leads the velocity of a flow model, and this is none. Choose another inversion"


class LedUp:
    """Computes x' = x + (sigma' - sigma) * (v + gamma * ((n - x) / (1 - sigma) - v)), n being unit normal noise.

    The bracket's first term is the velocity that ends at n; at gamma 1 the path does.

    Source: Rout et al., Semantic image inversion and editing using rectified stochastic differential equations,
    arXiv:2410.10792, equation 8.
    """

    def __init__(self, gamma: float):
        self.gamma = gamma

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        noise: torch.Tensor = state.memory[0] if context.index else context.noise(state.latents)
        # As in DDIM inversion: the way down asks at the noisier level of each pair.
        asked = dataclasses.replace(level, timestep=next_level.timestep)
        prediction = yield Query(state.latents, asked)
        velocity = prediction.noise - prediction.denoised
        led = (noise - state.latents) / level.alpha
        change = velocity + self.gamma * (led - velocity)
        latents = state.latents + (next_level.sigma - level.sigma) * change
        return State(latents, prediction.denoised, memory=(noise,))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


class Led:
    """Computes x' = x + (sigma' - sigma) * (v + eta * ((x - y) / sigma - v)), y being the picture.

    The bracket's first term is the velocity of the straight line from y; at eta 1 every path ends there.

    Args:
        picture: y, (1, C, h, w).
        eta: at the first steps.
        until: share of the steps that are led.

    Source: Rout et al., arXiv:2410.10792, equation 15.
    Differs: the time of both equations is the level's sigma; the community pipeline of diffusers, read, mixes uniform
    times with shifted sigmas.
    """

    def __init__(self, picture: torch.Tensor, eta: float, until: float):
        self.picture, self.eta, self.until = picture, eta, until

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction = yield Query(state.latents, level)
        change = prediction.noise - prediction.denoised
        if context.index < self.until * context.num_steps:
            change = change + self.eta * ((state.latents - self.picture) / level.sigma - change)
        latents = state.latents + (next_level.sigma - level.sigma) * change
        return State(latents, prediction.denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


class RfInversion(DdimInversion):
    """Inverts a flow model without words, toward typical noise, and comes back led to the picture.

    The source's row comes back as the edit's does, with the source's prompt: it is no exact reconstruction.

    Source: as `LedUp` and `Led`; gamma 0.5, eta 0.9 in the first 7 of 28 steps are theirs for FLUX.
    """

    is_random = True
    is_wordless = True

    def __init__(self, settings: RfInversionSettings = RfInversionSettings()):
        self.scale, self.strength, self.settings = 1.0, settings.strength, settings

    def noising(self) -> Sampler:
        return LedUp(self.settings.gamma)

    def denoising(self, trajectory: Trajectory, guidance_scale: float = 1.0) -> Sampler:
        return Led(trajectory.initial, self.settings.eta, self.settings.until)

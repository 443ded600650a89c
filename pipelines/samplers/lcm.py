"""The multistep sampler of latent consistency models."""

from __future__ import annotations

import dataclasses
import math

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Traits

__all__ = ["Lcm", "LcmSettings", "boundary_scalings", "fits_lcm"]

_SIGMA_DATA = 0.5


@dataclasses.dataclass(frozen=True)
class LcmSettings:
    """The settings of LCM."""

    timestep_scaling: float = setting(
        10.0, "How fast the boundary condition fades with the time step.", low=1, high=100, step=1
    )


def fits_lcm(traits: Traits) -> str | None:
    """Refuse flow models: the boundary condition is written in the discrete time of a variance-preserving model."""
    reason = "consistency sampling is defined on the time steps of diffusion models, not of flow models"
    return reason if traits.flow else None


def boundary_scalings(timestep: float, timestep_scaling: float) -> tuple[float, float]:
    """Compute c_skip and c_out, which make the consistency function the identity at time zero."""
    scaled = timestep * timestep_scaling
    return (_SIGMA_DATA**2 / (scaled**2 + _SIGMA_DATA**2), scaled / math.sqrt(scaled**2 + _SIGMA_DATA**2))


class Lcm:
    """LCM jumps to the clean estimate and adds fresh noise of the next level, step by step.

    Source: Luo et al., Latent consistency models, arXiv:2310.04378, algorithm 3; boundary scalings as in
    Song et al., Consistency models, arXiv:2303.01469, appendix C. Meant for distilled weights (LCM,
    LCM-LoRA); on others it is a blurry stochastic sampler.
    """

    def __init__(self, settings: LcmSettings = LcmSettings()):
        self.timestep_scaling = settings.timestep_scaling

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction = yield Query(state.latents, level)
        skip, out = boundary_scalings(level.timestep, self.timestep_scaling)
        denoised = out * prediction.denoised + skip * state.latents
        if next_level.sigma == 0:
            return State(denoised, denoised)
        return State(next_level.alpha * denoised + next_level.sigma * context.noise(denoised), denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps

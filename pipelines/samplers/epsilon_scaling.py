"""Epsilon scaling: the noise estimate made a little smaller, against the drift of a sampler's own errors."""

from __future__ import annotations

import dataclasses

from pipelines.core.prediction import Prediction
from pipelines.core.registry import setting
from pipelines.core.sampler import StepContext
from pipelines.core.types import Traits
from pipelines.samplers.wrapping import SOLVERS, Wrapper, with_noise

__all__ = ["EpsilonScaling", "EpsilonScalingSettings", "fits_epsilon_scaling"]


@dataclasses.dataclass(frozen=True)
class EpsilonScalingSettings:
    """The settings of epsilon scaling."""

    base: str = setting("ddim", "The solver whose noise estimates are scaled.", choices=tuple(SOLVERS))
    scale: float = setting(1.005, "The noise estimate is divided by this; 1 is none.", low=0.9, high=1.1, step=0.001)
    slope: float = setting(
        0.0,
        "Added to the scale at full noise, in proportion to time below it; 0 is constant.",
        low=-0.1,
        high=0.1,
        step=0.001,
    )


def fits_epsilon_scaling(traits: Traits) -> str | None:
    """Refuse flow models: the correction is of a diffusion model's exposure bias, as its authors measured it."""
    reason = (
        "its scales were measured on the noise estimates of diffusion models; for a flow model there are none to go by"
    )
    return reason if traits.flow else None


class EpsilonScaling(Wrapper[None]):
    """Epsilon scaling takes eps_hat / (k * t / T + b): constant with k = 0, else linear in the network's time.

    A network sees latents that carry its own errors, where it answers with too much noise; that is called exposure
    bias. With scale 1 and slope 0 the base solver is unchanged. An evaluation without signal is left as it is.

    Source: Ning et al., Elucidating the exposure bias in diffusion models, arXiv:2308.15321 (Epsilon Scaling); the
    authors' scales are 1.004 to 1.017.
    Differs: t is a share of the training time, so that the slope means the same for any number of steps.
    """

    empty = None

    def __init__(self, settings: EpsilonScalingSettings = EpsilonScalingSettings()):
        super().__init__(settings.base)
        self.scale, self.slope = settings.scale, settings.slope

    def modify_prediction(self, memory: None, prediction: Prediction, context: StepContext) -> tuple[None, Prediction]:
        share = prediction.level.timestep / context.noise_schedule.num_train_timesteps
        scale = self.slope * share + self.scale
        if scale == 1 or prediction.level.alpha == 0:
            return memory, prediction
        return memory, with_noise(prediction, prediction.noise / scale)

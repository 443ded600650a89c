"""Equal distances in lambda, the logarithm of the signal-to-noise ratio."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pipelines.registry import setting
from pipelines.schedule import CLEAN, FlowSchedule, Level, NoiseSchedule
from pipelines.schedules.uniform import require_descending

__all__ = ["Exponential", "ExponentialSettings", "geometric_sigmas"]


@dataclasses.dataclass(frozen=True)
class ExponentialSettings:
    sigma_min: float = setting(0.0, "Lowest noise sigma / alpha before the end; 0 takes the model's own.",
                               low=0, high=10, step=0.01)
    sigma_max: float = setting(0.0, "Highest noise sigma / alpha; 0 takes the model's own.", low=0, high=200, step=0.1)


def geometric_sigmas(sigma_min: float, sigma_max: float, num: int) -> np.ndarray:
    """(num,) descending, each the same fraction of the one before; both ends exact."""
    sigmas = np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), num))
    sigmas[-1] = sigma_min
    sigmas[0] = sigma_max
    return sigmas


class Exponential:
    """Equal distances in ln(sigma / alpha) = -lambda, which is both k-diffusion's exponential and uniform lambda.

    Source: Lu et al., DPM-Solver, arXiv:2206.00927, section 4.1 (uniform in lambda); k-diffusion's
    `get_sigmas_exponential`.
    Differs: for a flow model, whose lambda is infinite at the start, the logarithm is that of the flow's own sigma
    between 1 and 1 / T, as diffusers takes it.
    """

    def __init__(self, settings: ExponentialSettings = ExponentialSettings()):
        self.settings = settings

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """N + 1 descending levels, the last clean."""
        total = noise_schedule.num_train_timesteps
        if isinstance(noise_schedule, FlowSchedule):
            sigmas = geometric_sigmas(1 / total, 1.0, num_inference_steps)
            return require_descending([*(noise_schedule.at(float(sigma) * total) for sigma in sigmas), CLEAN])
        low = self.settings.sigma_min or noise_schedule.at(0).sigma_ve
        high = min(self.settings.sigma_max or math.inf, noise_schedule.at(total - 1).sigma_ve)
        sigmas = geometric_sigmas(low, high, num_inference_steps)
        return require_descending([*(noise_schedule.at_sigma_ve(float(sigma)) for sigma in sigmas), CLEAN])

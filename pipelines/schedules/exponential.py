"""Equal ratios of noise: on a diffusion model equal distances in lambda, half the log of the signal-to-noise ratio."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pipelines.core.registry import setting
from pipelines.core.schedule import CLEAN, FlowSchedule, Level, NoiseSchedule
from pipelines.schedules.noise_range import flow_sigma, noise_ends
from pipelines.schedules.uniform import require_descending

__all__ = ["Exponential", "ExponentialSettings", "geometric_sigmas"]


@dataclasses.dataclass(frozen=True)
class ExponentialSettings:
    sigma_min: float = setting(
        0.0, "Lowest noise sigma / alpha before the end; 0 takes the model's own.", low=0, high=10, step=0.01
    )
    sigma_max: float = setting(0.0, "Highest noise sigma / alpha; 0 takes the model's own.", low=0, high=200, step=0.1)


def geometric_sigmas(sigma_min: float, sigma_max: float, num: int) -> np.ndarray:
    """Return (num,) descending, each the same fraction of the one before; both ends exact."""
    sigmas = np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), num))
    sigmas[-1] = sigma_min
    sigmas[0] = sigma_max
    return sigmas


class Exponential:
    """Visits equal distances in ln(sigma / alpha) = -lambda, which on a diffusion model is both k-diffusion's
    exponential and uniform lambda.

    Source: Lu et al., DPM-Solver, arXiv:2206.00927, section 4.1 (uniform in lambda); k-diffusion's
    `get_sigmas_exponential`.
    Differs: for a flow model, whose lambda is infinite at the start, the logarithm is that of the flow's own sigma
    by default between 1 and 1 / T, as diffusers takes it. `UniformLambda` is the other of the two there.
    """

    def __init__(self, settings: ExponentialSettings = ExponentialSettings()):
        self.settings = settings

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """Return N + 1 descending levels, the last clean.

        Raises:
            SettingsError: an end of the noise that the model does not have.
        """
        total = noise_schedule.num_train_timesteps
        low, high = noise_ends(noise_schedule, self.settings.sigma_min, self.settings.sigma_max, "Exponential")
        if isinstance(noise_schedule, FlowSchedule):
            sigmas = geometric_sigmas(flow_sigma(low), flow_sigma(high), num_inference_steps)
            return require_descending([*(noise_schedule.at(float(sigma) * total) for sigma in sigmas), CLEAN])
        sigmas = geometric_sigmas(low, high, num_inference_steps)
        return require_descending([*(noise_schedule.at_sigma_ve(float(sigma)) for sigma in sigmas), CLEAN])

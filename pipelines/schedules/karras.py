"""The schedule of Karras et al.: dense at low noise."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipelines.core.registry import setting
from pipelines.core.schedule import CLEAN, FlowSchedule, Level, NoiseSchedule
from pipelines.schedules.noise_range import flow_sigma, noise_ends
from pipelines.schedules.uniform import require_descending

__all__ = ["Karras", "KarrasSettings", "karras_ramp"]


@dataclasses.dataclass(frozen=True)
class KarrasSettings:
    rho: float = setting(
        7.0, "How strongly the steps crowd at low noise; 1 is uniform in sigma.", low=1, high=20, step=0.5
    )
    sigma_min: float = setting(
        0.0, "Lowest noise sigma / alpha before the end; 0 takes the model's own.", low=0, high=10, step=0.01
    )
    sigma_max: float = setting(0.0, "Highest noise sigma / alpha; 0 takes the model's own.", low=0, high=200, step=0.1)


def karras_ramp(sigma_min: float, sigma_max: float, num: int, rho: float) -> np.ndarray:
    """Return (num,) descending: (max^(1/rho) + i / (num - 1) * (min^(1/rho) - max^(1/rho)))^rho.

    Source: Karras et al., arXiv:2206.00364, equation 5.
    """
    ramp = np.linspace(0, 1, num)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + ramp * (low - high)) ** rho


class Karras:
    """Visits equal distances in sigma^(1/rho).

    Differs: for a flow model, whose sigma / alpha is infinite at the start, the ramp is taken in the flow's
    own sigma, by default between 1 and 1 / T, as diffusers does.
    """

    def __init__(self, settings: KarrasSettings = KarrasSettings()):
        self.settings = settings

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """Return N + 1 descending levels, the last clean.

        Raises:
            SettingsError: an end of the noise that the model does not have.
        """
        s, total = self.settings, noise_schedule.num_train_timesteps
        low, high = noise_ends(noise_schedule, s.sigma_min, s.sigma_max, "Karras")
        if isinstance(noise_schedule, FlowSchedule):
            sigmas = karras_ramp(flow_sigma(low), flow_sigma(high), num_inference_steps, s.rho)
            return require_descending([*(noise_schedule.at(float(sigma) * total) for sigma in sigmas), CLEAN])
        sigmas = karras_ramp(low, high, num_inference_steps, s.rho)
        return require_descending([*(noise_schedule.at_sigma_ve(float(sigma)) for sigma in sigmas), CLEAN])

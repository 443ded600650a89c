"""Equal distances in the angle of noise and signal: optimal in the Kullback-Leibler sense for Gaussian data."""

from __future__ import annotations

import math

import numpy as np

from pipelines.core.registry import NoSettings
from pipelines.core.schedule import CLEAN, Level, NoiseSchedule
from pipelines.schedules.noise_range import lowest_and_highest
from pipelines.schedules.uniform import require_descending

__all__ = ["KlOptimal"]


class KlOptimal:
    """arctan(sigma / alpha) at equal distances between the model's ends.

    Source: Sabour et al., Align your steps, arXiv:2404.14507, section 3.1 (the optimum for isotropic Gaussian data of
    unit variance).
    """

    def __init__(self, settings: NoSettings = NoSettings()):
        pass

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """N + 1 descending levels, the last clean."""
        low, high = (math.atan(sigma) for sigma in lowest_and_highest(noise_schedule))
        angles = np.linspace(high, low, num_inference_steps).tolist()
        # The tangent of a right angle is a number, and the level that it stands for has no signal.
        sigmas = [math.inf if angle >= math.pi / 2 else math.tan(angle) for angle in angles]
        return require_descending([*(noise_schedule.at_sigma_ve(sigma) for sigma in sigmas), CLEAN])

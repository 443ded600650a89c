"""Shifted time: more steps where noise is high, as large pictures need."""

from __future__ import annotations

import dataclasses

from pipelines.core.registry import setting
from pipelines.core.schedule import CLEAN, Level, NoiseSchedule
from pipelines.schedules.uniform import require_descending

__all__ = ["Shift", "ShiftSettings", "shifted"]


@dataclasses.dataclass(frozen=True)
class ShiftSettings:
    shift: float = setting(
        0.0, "Above 1 spends more steps on high noise; 0 takes the model's own, 1 is none.", low=0, high=20, step=0.1
    )


def shifted(time: float, shift: float) -> float:
    """shift * t / (1 + (shift - 1) * t) for t in [0, 1]; 0 and 1 stay where they are.

    Source: Esser et al., Scaling rectified flow transformers, arXiv:2403.03206, equation 23.
    """
    return shift * time / (1 + (shift - 1) * time)


class Shift:
    """Trailing uniform times, shifted; for diffusion models the same warp of their discrete time.

    Differs: the paper shifts flow models only.
    """

    def __init__(self, settings: ShiftSettings = ShiftSettings()):
        self.settings = settings

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """N + 1 descending levels, the last clean."""
        shift = self.settings.shift or noise_schedule.shift
        times = [shifted(i / num_inference_steps, shift) for i in range(num_inference_steps, 0, -1)]
        return require_descending([*(noise_schedule.at(noise_schedule.network_time(time)) for time in times), CLEAN])

"""Shifted time: more steps where noise is high, as large pictures need."""

from __future__ import annotations

import dataclasses

from pipelines.core.registry import setting
from pipelines.core.schedule import CLEAN, FlowSchedule, Level, NoiseSchedule
from pipelines.schedules.uniform import require_descending

__all__ = ["Shift", "ShiftSettings", "shift_times", "stretch_times"]


@dataclasses.dataclass(frozen=True)
class ShiftSettings:
    shift: float = setting(
        0.0, "Above 1 spends more steps on high noise; 0 takes the model's own, 1 is none.", low=0, high=20, step=0.1
    )


def shift_times(time: float, shift: float) -> float:
    """Compute shift * t / (1 + (shift - 1) * t) for t in [0, 1]; 0 and 1 stay where they are.

    Source: Esser et al., Scaling rectified flow transformers, arXiv:2403.03206, equation 23.
    """
    return shift * time / (1 + (shift - 1) * time)


def stretch_times(times: list[float], terminal: float) -> list[float]:
    """Stretch descending times from 1 so that they end at `terminal`; a single one stays.

    Source: LTX-Video's terminal shift, as diffusers' `stretch_shift_to_terminal`.
    """
    if times[-1] == 1:
        return times
    scale = (1 - times[-1]) / (1 - terminal)
    return [1 - (1 - time) / scale for time in times]


class Shift:
    """Visits trailing uniform times, shifted; for diffusion models the same warp of their discrete time.

    Differs: the paper shifts flow models only.
    """

    def __init__(self, settings: ShiftSettings = ShiftSettings()):
        self.settings = settings

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """Return N + 1 descending levels, the last clean."""
        shift = self.settings.shift or noise_schedule.shift
        times = [shift_times(i / num_inference_steps, shift) for i in range(num_inference_steps, 0, -1)]
        if not self.settings.shift and isinstance(noise_schedule, FlowSchedule) and noise_schedule.terminal:
            times = stretch_times(times, noise_schedule.terminal)
        return require_descending([*(noise_schedule.at(noise_schedule.network_time(time)) for time in times), CLEAN])

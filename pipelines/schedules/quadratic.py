"""Time steps that crowd at one end by a power law."""

from __future__ import annotations

import dataclasses

from pipelines.core.registry import setting
from pipelines.core.schedule import CLEAN, Level, NoiseSchedule
from pipelines.schedules.uniform import require_descending

__all__ = ["DenseAtHighNoise", "DenseSettings", "Quadratic", "QuadraticSettings"]


@dataclasses.dataclass(frozen=True)
class QuadraticSettings:
    power: float = setting(2.0, "How strongly the steps crowd at low noise; 1 is uniform.", low=1, high=5, step=0.1)


@dataclasses.dataclass(frozen=True)
class DenseSettings:
    power: float = setting(2.0, "How strongly the steps crowd at high noise; 1 is uniform.", low=1, high=5, step=0.1)


class Quadratic:
    """Visits t = t_last * (i / N)^power for i = N to 1, and the clean end.

    Source: Song et al., DDIM, arXiv:2010.02502, appendix D.2 (quadratic tau).
    Differs: times are not rounded to whole steps, and the first is the last trained one.
    """

    def __init__(self, settings: QuadraticSettings | DenseSettings = QuadraticSettings()):
        self.power = settings.power

    def share(self, rest: float) -> float:
        """Return the time, as a share of the whole, at which this share of the steps is still to come."""
        return rest**self.power

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """Return N + 1 descending levels, the last clean."""
        last, count = noise_schedule.network_time(1.0), num_inference_steps
        times = [last * self.share(i / count) for i in range(count, 0, -1)]
        return require_descending([*(noise_schedule.at(time) for time in times), CLEAN])


class DenseAtHighNoise(Quadratic):
    """The mirror of it: t = t_last * (1 - (1 - i / N)^power), so the first steps are the shortest.

    Source: the mirror of DDIM's quadratic times, arXiv:2010.02502, appendix D.2.
    Differs: schedules found by search for few steps (ESS among them) are of this form but fitted to a model.
    """

    def __init__(self, settings: DenseSettings = DenseSettings()):
        super().__init__(settings)

    def share(self, rest: float) -> float:
        return 1 - (1 - rest) ** self.power

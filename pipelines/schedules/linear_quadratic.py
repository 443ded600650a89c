"""Linear, then quadratic: half of the steps take the first fortieth of the noise away."""

from __future__ import annotations

import dataclasses
import math

from pipelines.core.registry import setting
from pipelines.core.schedule import CLEAN, FlowSchedule, Level, NoiseSchedule
from pipelines.schedules.noise_range import lowest_and_highest
from pipelines.schedules.uniform import require_descending

__all__ = ["LinearQuadratic", "LinearQuadraticSettings", "linear_quadratic_shares"]


@dataclasses.dataclass(frozen=True)
class LinearQuadraticSettings:
    """The settings of the linear-quadratic schedule."""

    threshold: float = setting(
        0.025, "Share of the noise that the first half of the steps takes away.", low=0.001, high=0.5, step=0.005
    )


def linear_quadratic_shares(num_steps: int, threshold: float) -> list[float]:
    """List the shares of the noise that are left at the beginning of each step, from 1 down.

    Source: Polyak et al., Movie Gen, arXiv:2410.13720, section 3.4.2; the coefficients are those of Mochi's code, by
    which value and slope are continuous where the halves meet.
    """
    if num_steps == 1:
        return [1.0]
    linear = num_steps // 2
    quadratic = num_steps - linear
    difference = linear - threshold * num_steps
    curve = difference / (linear * quadratic**2)
    slope = threshold / linear - 2 * difference / quadratic**2
    taken = [step * threshold / linear for step in range(linear)]
    taken += [curve * step**2 + slope * step + curve * linear**2 for step in range(linear, num_steps)]
    return [1 - share for share in taken]


class LinearQuadratic:
    """sigma / alpha (of a flow model its own sigma) by linear, then quadratic shares of the model's highest.

    Source: Polyak et al., Movie Gen, arXiv:2410.13720, section 3.4.2.
    Differs: the paper has flow models only.
    """

    def __init__(self, settings: LinearQuadraticSettings = LinearQuadraticSettings()):
        self.threshold = settings.threshold

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """N + 1 descending levels, the last clean."""
        shares = linear_quadratic_shares(num_inference_steps, self.threshold)
        highest = lowest_and_highest(noise_schedule)[1]
        if isinstance(noise_schedule, FlowSchedule) or math.isinf(highest):
            levels = [noise_schedule.at(share * noise_schedule.num_train_timesteps) for share in shares]
        else:
            levels = [noise_schedule.at_sigma_ve(share * highest) for share in shares]
        return require_descending([*levels, CLEAN])

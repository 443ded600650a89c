"""Equal distances in lambda on a flow model."""

from __future__ import annotations

import dataclasses

from pipelines.core.registry import setting
from pipelines.core.schedule import CLEAN, Level, NoiseSchedule
from pipelines.core.types import Traits
from pipelines.schedules.exponential import geometric_sigmas
from pipelines.schedules.noise_range import noise_ends
from pipelines.schedules.uniform import require_descending

__all__ = ["UniformLambda", "UniformLambdaSettings", "fits_uniform_lambda"]


@dataclasses.dataclass(frozen=True)
class UniformLambdaSettings:
    sigma_min: float = setting(
        0.0, "Lowest noise sigma / alpha before the end; 0 takes the model's own.", low=0, high=10, step=0.01
    )
    sigma_max: float = setting(
        0.0, "Highest noise sigma / alpha; 0 begins one time step below pure noise.", low=0, high=2000, step=1
    )


def fits_uniform_lambda(traits: Traits) -> str | None:
    """On a diffusion model it would be a second name of another schedule."""
    return None if traits.flow else "on a diffusion model it is the schedule Exponential: choose that"


class UniformLambda:
    """Visits lambda = ln(alpha / sigma) at equal distances, as DPM-Solver proposes; crowds the steps at both ends of a
    flow.

    At pure noise lambda is minus infinity, so it begins one time step below: at sigma = 1 - 1 / T.

    Source: Lu et al., DPM-Solver, arXiv:2206.00927, section 4.1.
    """

    def __init__(self, settings: UniformLambdaSettings = UniformLambdaSettings()):
        self.settings = settings

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """Return N + 1 descending levels, the last clean.

        Raises:
            SettingsError: an end of the noise that the model does not have.
        """
        begin = noise_schedule.at(noise_schedule.num_train_timesteps - 1).sigma_ve
        low, high = noise_ends(
            noise_schedule, self.settings.sigma_min, self.settings.sigma_max or begin, "Uniform in lambda"
        )
        sigmas = geometric_sigmas(low, high, num_inference_steps)
        return require_descending([*(noise_schedule.at_sigma_ve(float(sigma)) for sigma in sigmas), CLEAN])

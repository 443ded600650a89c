"""Align your steps: noise levels optimized for three models, published as tables of ten steps."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.core.schedule import CLEAN, Level, NoiseSchedule
from pipelines.core.types import Traits
from pipelines.schedules.uniform import require_descending

__all__ = ["TABLES", "AlignYourSteps", "AlignYourStepsSettings", "fits_align_your_steps", "interpolated_sigmas"]

TABLES = {
    "sd1": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""sigma / alpha of the ten steps, and the lowest noise of the model that each was made for."""


@dataclasses.dataclass(frozen=True)
class AlignYourStepsSettings:
    table: str = setting(
        "sd1",
        "The model whose table is taken: Stable Diffusion 1, SDXL or Stable Video Diffusion.",
        choices=tuple(TABLES),
    )


def fits_align_your_steps(traits: Traits) -> str | None:
    """The tables are those of three diffusion models."""
    return "its tables were made for diffusion models (Stable Diffusion 1, SDXL, SVD)" if traits.flow else None


def interpolated_sigmas(table: tuple[float, ...], num_inference_steps: int) -> np.ndarray:
    """Return (N,) descending: the table at N + 1 equal distances of its index, without the last; linear in log sigma.

    Source: Sabour, Fidler, Kreis, Align your steps, arXiv:2404.14507, section 4 (other numbers of steps).
    """
    places = np.linspace(0, len(table) - 1, num_inference_steps + 1)[:-1]
    return np.exp(np.interp(places, np.arange(len(table)), np.log(table)))


class AlignYourSteps:
    """Visits the published levels at ten steps, interpolated at any other number.

    Source: Sabour, Fidler, Kreis, Align your steps: optimizing sampling schedules in diffusion models,
    arXiv:2404.14507, appendix (tables of the optimized schedules).
    Differs: a first level above the model's own highest noise is that highest noise.
    """

    def __init__(self, settings: AlignYourStepsSettings = AlignYourStepsSettings()):
        self.table = settings.table

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """Build N + 1 descending levels, the last clean.

        Raises:
            SettingsError: the table is of a model with much more noise than this one has.
        """
        highest = noise_schedule.at(noise_schedule.network_time(1.0)).sigma_ve
        sigmas = interpolated_sigmas(TABLES[self.table], num_inference_steps)
        if TABLES[self.table][0] > 1.5 * highest:
            raise SettingsError(
                f"The table {self.table} begins at a noise of {TABLES[self.table][0]:g}, this model at {highest:.4g}. "
                "Choose the table of this model."
            )
        sigmas[0] = min(sigmas[0], highest)
        times = [noise_schedule.at_sigma_ve(float(sigma)) for sigma in sigmas]
        return require_descending([*times, CLEAN])

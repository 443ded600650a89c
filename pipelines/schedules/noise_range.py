"""The ends of a schedule that is laid between two noise levels, as they were chosen or as the model has them."""

from __future__ import annotations

import math

from pipelines.core.errors import SettingsError
from pipelines.core.schedule import FlowSchedule, NoiseSchedule

__all__ = ["flow_sigma", "lowest_and_highest", "noise_ends"]

_ROUNDED = 0.01
"""How far a typed end may lie outside: the model's own, rounded to three digits, must be taken."""


def lowest_and_highest(noise_schedule: NoiseSchedule) -> tuple[float, float]:
    """Compute sigma / alpha of the model's least and most noise; a flow model has its schedule's own lowest at least,
    mostly a thousandth of its time, and no most."""
    total = noise_schedule.num_train_timesteps
    if isinstance(noise_schedule, FlowSchedule):
        return noise_schedule.at(noise_schedule.lowest * total).sigma_ve, math.inf
    return noise_schedule.at(0).sigma_ve, noise_schedule.at(total - 1).sigma_ve


def noise_ends(noise_schedule: NoiseSchedule, sigma_min: float, sigma_max: float, label: str) -> tuple[float, float]:
    """Return the lowest and the highest sigma / alpha of a schedule; the highest is infinite for a flow model's pure
    noise.

    Args:
        noise_schedule: of the model.
        sigma_min, sigma_max: as they were chosen; 0 takes the model's own.
        label: the schedule's, for messages.

    Raises:
        SettingsError: an end that the model does not have, or a lowest that is not below the highest.
    """
    least, most = lowest_and_highest(noise_schedule)
    low, high = sigma_min or least, sigma_max or most
    for name, value in (("sigma min", low), ("sigma max", high)):
        if not least * (1 - _ROUNDED) <= value <= most * (1 + _ROUNDED):
            end = "any above" if math.isinf(most) else f"{most:.4g}"
            raise SettingsError(
                f"{label}: {name} is {value:g}. This model's noise goes from {least:.4g} to {end}. Choose a value in "
                "between, or 0 for its own."
            )
    if low >= high:
        raise SettingsError(
            f"{label}: the lowest noise, {low:.4g}, is not below the highest, {high:.4g}. Choose a smaller "
            f"sigma min or a "
            "larger sigma max."
        )
    return low, min(high, most)


def flow_sigma(sigma_ve: float) -> float:
    """Return the flow's own sigma, between 0 and 1, at which sigma / alpha has this value."""
    return 1.0 if math.isinf(sigma_ve) else sigma_ve / (1 + sigma_ve)

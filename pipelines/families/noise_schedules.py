"""The noise schedule of a model, read from the configuration of its diffusers scheduler."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pipelines.core.errors import ModelError
from pipelines.core.schedule import DiscreteSchedule, FlowSchedule
from pipelines.schedules.shift import shift_times

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

__all__ = ["discrete_schedule", "has_edm_times", "shifted_schedule"]

_SMALLEST_ALPHA = 2.0**-24
"""Stands for an alphas_cumprod of zero (a terminal level without signal), as diffusers' Euler has it."""


def discrete_schedule(scheduler: SchedulerMixin) -> DiscreteSchedule:
    """Return the noise schedule of a scheduler with `alphas_cumprod`.

    Raises:
        ModelError: it has none.
    """
    if has_edm_times(scheduler):
        # Log-linear, so that the index of a level and the network's time, ln(sigma) / 4, are linear in each other.
        config = scheduler.config
        sigmas = np.geomspace(config.sigma_min, config.sigma_max, config.num_train_timesteps)
        return DiscreteSchedule((1 / (1 + sigmas**2)).tolist())
    alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise ModelError(
            f"The scheduler {type(scheduler).__name__} has no alphas_cumprod. Use a model with a DDIM scheduler."
        )
    values = np.maximum(np.asarray(alphas_cumprod, dtype=np.float64), _SMALLEST_ALPHA)
    return DiscreteSchedule(values.tolist(), scheduler.config.get("steps_offset", 0))


def has_edm_times(scheduler: SchedulerMixin) -> bool:
    """Say whether a network takes EDM's time, ln(sigma / alpha) / 4, with data of unit deviation (CosXL).

    Source: Karras et al., EDM, arXiv:2206.00364, table 1. With unit deviation its preconditioning is v-prediction.
    """
    return type(scheduler).__name__.startswith("EDM") and scheduler.config.get("sigma_data") == 1.0


def shifted_schedule(scheduler: SchedulerMixin, image_tokens: int, max_shift: float) -> FlowSchedule:
    """Return the noise schedule of a flow-matching scheduler with its shift, fixed or growing with the picture.

    Args:
        scheduler: its configuration gives the shift.
        image_tokens: of the picture, (width * height) / (pixels to a token)^2.
        max_shift: of pictures of 4096 tokens, where the configuration has none.

    Raises:
        ModelError: the configuration asks for what no schedule here does.

    Source: a growing one is exp(mu), or mu itself where the type is linear, mu linear in the number of tokens, as in
    diffusers' `calculate_shift` and FlowMatchEulerDiscreteScheduler. There a fixed shift acts twice on the lowest
    sigma.
    """
    config = scheduler.config
    total = config.get("num_train_timesteps", 1000)
    kind, terminal = config.get("time_shift_type") or "exponential", config.get("shift_terminal") or 0.0
    if config.get("invert_sigmas"):
        raise ModelError("The model's scheduler inverts its sigmas (Mochi's way), which this studio's loop does not.")
    if kind not in ("exponential", "linear"):
        raise ModelError(f"The model's scheduler shifts time by {str(kind)[:40]!r}, which is not known here.")
    if not config.get("use_dynamic_shifting"):
        shift = config.get("flow_shift", config.get("shift", 1.0))
        return FlowSchedule(total, shift, shift_times(shift_times(1 / total, shift), shift), terminal)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    low_tokens, high_tokens = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    mu = low + (high - low) * (image_tokens - low_tokens) / (high_tokens - low_tokens)
    shift = math.exp(mu) if kind == "exponential" else mu
    return FlowSchedule(total, shift, shift_times(1 / total, shift), terminal)

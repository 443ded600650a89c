"""Time steps at the quantiles of a beta distribution: dense at both ends."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pipelines.core.registry import setting
from pipelines.core.schedule import CLEAN, FlowSchedule, Level, NoiseSchedule
from pipelines.schedules.noise_range import flow_sigma, lowest_and_highest
from pipelines.schedules.uniform import require_descending

__all__ = ["Beta", "BetaSettings", "beta_cdf", "beta_quantiles"]

_TERMS = 120
"""Of the power series below at x <= 1/2, where each is less than half the one before."""


@dataclasses.dataclass(frozen=True)
class BetaSettings:
    alpha: float = setting(0.6, "Below 1 crowds the steps at low noise.", low=0.1, high=5, step=0.05, label="alpha")
    beta: float = setting(0.6, "Below 1 crowds the steps at high noise.", low=0.1, high=5, step=0.05, label="beta")
    quantiles_of: str = setting(
        "time",
        "What the distribution is of: time, whole time steps (ComfyUI), or sigma / alpha between its ends (A1111).",
        choices=("time", "whole time steps", "sigma"),
    )


def _sum_lower_incomplete(x: np.ndarray, a: float, b: float) -> np.ndarray:
    total, factor = np.zeros_like(x), np.ones_like(x)
    for n in range(_TERMS):
        total = total + factor / (a + n)
        factor = factor * x * (n + 1 - b) / (n + 1)
    return x**a * total * math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))


def beta_cdf(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """Return the regularized incomplete beta function I_x(a, b) for x in [0, 1].

    Source: Abramowitz & Stegun, 6.6.2 and 26.5.4: x^a * sum_n (1 - b)_n * x^n / (n! * (a + n)) / B(a, b); the
    upper half by I_x(a, b) = 1 - I_(1 - x)(b, a).
    """
    x = np.asarray(x, dtype=np.float64)
    return np.where(
        x <= 0.5,
        _sum_lower_incomplete(np.minimum(x, 0.5), a, b),
        1 - _sum_lower_incomplete(np.minimum(1 - x, 0.5), b, a),
    )


def beta_quantiles(shares: np.ndarray, a: float, b: float) -> np.ndarray:
    """Compute x with I_x(a, b) = share, by bisection; 0 and 1 are exact."""
    shares = np.asarray(shares, dtype=np.float64)
    low, high = np.zeros_like(shares), np.ones_like(shares)
    for _ in range(60):
        middle = (low + high) / 2
        below = beta_cdf(middle, a, b) < shares
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(shares >= 1, 1.0, np.where(shares <= 0, 0.0, high))


class Beta:
    """Visits t = t_last * quantile(i / N) for i = N to 1, and the clean end.

    Source: Lee et al., Beta sampling is all you need, arXiv:2407.12173, section 3, with its alpha = beta = 0.6.
    Differs: by default times are not rounded to whole steps, where two fall together. diffusers and A1111 take the
    quantiles of sigma / alpha instead of time, both ends included.
    """

    def __init__(self, settings: BetaSettings = BetaSettings()):
        self.settings = settings

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """Return N + 1 descending levels, the last clean."""
        kind, last = self.settings.quantiles_of, noise_schedule.network_time(1.0)
        if kind == "sigma":
            return self._levels_in_sigma(noise_schedule, num_inference_steps)
        shares = np.arange(num_inference_steps, 0, -1) / num_inference_steps
        times = last * beta_quantiles(shares, self.settings.alpha, self.settings.beta)
        if kind == "whole time steps":
            times = np.array(list(dict.fromkeys(np.rint(times).tolist())))
        return require_descending([*(noise_schedule.at(float(time)) for time in times), CLEAN])

    def _levels_in_sigma(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        low, high = lowest_and_highest(noise_schedule)
        quantiles = beta_quantiles(np.linspace(1, 0, num_inference_steps), self.settings.alpha, self.settings.beta)
        if isinstance(noise_schedule, FlowSchedule):
            low, high = flow_sigma(low), flow_sigma(high)
            sigmas = low + quantiles * (high - low)
            levels = [noise_schedule.at(float(sigma) * noise_schedule.num_train_timesteps) for sigma in sigmas]
        else:
            levels = [noise_schedule.at_sigma_ve(float(low + share * (high - low))) for share in quantiles]
        return require_descending([*levels, CLEAN])

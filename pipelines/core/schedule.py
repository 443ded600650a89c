"""Noise levels, and the noise schedules of the model families.

A noisy latent is x = alpha * x0 + sigma * eps. A variance-preserving model (DDPM, Stable Diffusion) has
alpha^2 + sigma^2 = 1 and a table of alphas_cumprod; a flow model has alpha = 1 - t and sigma = t. Samplers
ask a `Level` for alpha, sigma and lambda and never assume which of the two they serve.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

__all__ = ["CLEAN", "DiscreteSchedule", "FlowSchedule", "Level", "NoiseSchedule", "Schedule"]


@dataclasses.dataclass(frozen=True)
class Level:
    """A level says how much noise there is: x = alpha * x0 + sigma * eps.

    Attributes:
        alpha, sigma: the signal's and the noise's factor, both >= 0.
        timestep: as the network takes it (0 to 999 for Stable Diffusion, 0 to 1000 for flow models),
            possibly fractional.
    """

    alpha: float
    sigma: float
    timestep: float

    @property
    def lam(self) -> float:
        """lambda = ln(alpha / sigma), half the logarithm of the signal-to-noise ratio; +-inf at the ends."""
        if self.sigma == 0:
            return math.inf
        if self.alpha == 0:
            return -math.inf
        return math.log(self.alpha / self.sigma)

    @property
    def sigma_ve(self) -> float:
        """sigma / alpha, the noise level of k-diffusion and of Karras et al. (2022); inf without signal."""
        return math.inf if self.alpha == 0 else self.sigma / self.alpha


CLEAN = Level(alpha=1.0, sigma=0.0, timestep=0.0)
"""The noise-free end of every run."""


class NoiseSchedule(Protocol):
    """A noise schedule relates a family's network time to the noise level.

    Attributes:
        num_train_timesteps: T, usually 1000.
        steps_offset: added to leading time steps (1 for Stable Diffusion).
        shift: the family's default time shift (1 for none).
    """

    num_train_timesteps: int
    steps_offset: int
    shift: float

    def at(self, timestep: float) -> Level:
        """Find the level of a network time, fractional times allowed."""

    def at_sigma_ve(self, sigma_ve: float) -> Level:
        """Find the level at which sigma / alpha has this value, >= 0, with its fractional time."""

    def network_time(self, fraction: float) -> float:
        """Find the network's time at a fraction (0 to 1) of the way from clean to noise, as trailing steps count."""

    def initial_scale(self, level: Level) -> float:
        """Find the standard deviation of the initial latents of a run that starts at `level` from pure noise."""


class Schedule(Protocol):
    """A schedule says which noise levels a run visits: one method of the schedule table, built with its settings."""

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """List the N + 1 levels of a run of N steps, descending, the last usually clean.

        Raises:
            SettingsError: the schedule cannot serve this model or number of steps.
        """


class DiscreteSchedule:
    """A discrete schedule is the variance-preserving one of a model trained on T discrete time steps.

    Args:
        alphas_cumprod: (T,), descending, in (0, 1).
        steps_offset: what the model's own scheduler adds to leading time steps.

    Source: Ho et al., DDPM, arXiv:2006.11239, equation 4. Fractional times interpolate ln(sigma / alpha)
    linearly, as Karras et al.'s `sigma_to_t` does (k-diffusion, `DiscreteSchedule`).
    """

    shift = 1.0

    def __init__(self, alphas_cumprod: Sequence[float], steps_offset: int = 0):
        self.alphas_cumprod = np.asarray(alphas_cumprod, dtype=np.float64)
        self.num_train_timesteps = len(self.alphas_cumprod)
        self.steps_offset = steps_offset
        self._log_sigma_ve = 0.5 * (np.log1p(-self.alphas_cumprod) - np.log(self.alphas_cumprod))

    def at(self, timestep: float) -> Level:
        index = int(timestep)
        if index == timestep and 0 <= index < self.num_train_timesteps:
            ratio = float(self.alphas_cumprod[index])
            return Level(math.sqrt(ratio), math.sqrt(1 - ratio), float(timestep))
        log_sigma = float(np.interp(timestep, np.arange(self.num_train_timesteps), self._log_sigma_ve))
        return _build_variance_preserving_level(math.exp(log_sigma), float(timestep))

    def at_sigma_ve(self, sigma_ve: float) -> Level:
        if sigma_ve == 0:
            return CLEAN
        timestep = float(np.interp(math.log(sigma_ve), self._log_sigma_ve, np.arange(self.num_train_timesteps)))
        return _build_variance_preserving_level(sigma_ve, timestep)

    def network_time(self, fraction: float) -> float:
        return max(0.0, self.num_train_timesteps * fraction - 1)

    def initial_scale(self, level: Level) -> float:
        return 1.0


def _build_variance_preserving_level(sigma_ve: float, timestep: float) -> Level:
    alpha = 1 / math.sqrt(1 + sigma_ve**2)
    return Level(alpha, sigma_ve * alpha, timestep)


class FlowSchedule:
    """A flow schedule is that of rectified flow: alpha = 1 - sigma, and the network's time is T * sigma.

    Args:
        num_train_timesteps: T.
        shift: default shift of the family, sigma -> shift * sigma / (1 + (shift - 1) * sigma).
        lowest: the sigma where schedules between two noise levels end before the clean sample; 0 for 1 / T.
        terminal: where shifted times are stretched to end; 0 for where the shift puts them.

    Source: Liu et al., Flow straight and fast, arXiv:2209.03003; the shift is equation 23 of Esser et al.,
    Scaling rectified flow transformers, arXiv:2403.03206.
    """

    steps_offset = 0

    def __init__(self, num_train_timesteps: int = 1000, shift: float = 1.0, lowest: float = 0.0, terminal: float = 0.0):
        self.num_train_timesteps = num_train_timesteps
        self.shift = shift
        self.lowest = lowest or 1 / num_train_timesteps
        self.terminal = terminal

    def at(self, timestep: float) -> Level:
        sigma = timestep / self.num_train_timesteps
        return Level(1 - sigma, sigma, float(timestep))

    def at_sigma_ve(self, sigma_ve: float) -> Level:
        sigma = 1.0 if math.isinf(sigma_ve) else sigma_ve / (1 + sigma_ve)
        return self.at(sigma * self.num_train_timesteps)

    def network_time(self, fraction: float) -> float:
        return self.num_train_timesteps * fraction

    def initial_scale(self, level: Level) -> float:
        return level.sigma

"""DDIM and the ancestral samplers: one update with an adjustable share of fresh noise."""

from __future__ import annotations

import dataclasses
import math

import torch

from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import State, StepContext, Stepping
from pipelines.core.schedule import Level

__all__ = ["AncestralSettings", "Ddim", "DdimSettings", "ancestral_step", "fresh_noise"]


@dataclasses.dataclass(frozen=True)
class DdimSettings:
    """The settings of DDIM."""

    eta: float = setting(
        0.0, "Share of fresh noise in each step: 0 is deterministic, 1 is DDPM.", low=0, high=1, step=0.05, label="eta"
    )


@dataclasses.dataclass(frozen=True)
class AncestralSettings:
    """The settings of the ancestral samplers."""

    eta: float = setting(
        1.0,
        "Share of fresh noise in each step: 1 is fully ancestral, 0 is Euler.",
        low=0,
        high=1,
        step=0.05,
        label="eta",
    )


def fresh_noise(level: Level, next_level: Level, eta: float) -> float:
    """Compute the standard deviation s = eta * sigma' * sqrt(1 - (alpha * sigma' / (alpha' * sigma))^2) of the fresh
    noise.

    Source: Song et al., arXiv:2010.02502, equation 16, written for any alpha and sigma; for a
    variance-preserving schedule the bracket is (1 - alpha^2 / alpha'^2) / sigma^2. k-diffusion's sigma_up
    is s / alpha'.
    """
    ratio = level.alpha * next_level.sigma / (next_level.alpha * level.sigma)
    return eta * next_level.sigma * math.sqrt(max(0.0, 1 - ratio**2))


def ancestral_step(
    prediction: Prediction, level: Level, next_level: Level, eta: float, context: StepContext
) -> torch.Tensor:
    """Compute x' = alpha' * x0_hat + sqrt(sigma'^2 - s^2) * eps_hat + s * n."""
    s = fresh_noise(level, next_level, eta)
    noise_factor = math.sqrt(max(0.0, next_level.sigma**2 - s**2))
    latents = next_level.alpha * prediction.denoised + noise_factor * prediction.noise
    return latents if s == 0 else latents + s * context.noise(latents)


class Ddim:
    """DDIM steps by denoising diffusion implicit models, and with eta = 1 the ancestral (DDPM) sampler.

    Source: Song, Meng, Ermon, arXiv:2010.02502, equation 12.
    """

    def __init__(self, settings: DdimSettings | AncestralSettings):
        self.eta = settings.eta

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction = yield Query(state.latents, level)
        return State(ancestral_step(prediction, level, next_level, self.eta, context), prediction.denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps

"""Runs of diffusers' schedulers on the Gaussian, at the levels and with the noise that ours get.

diffusers' float32 tables are made float64 where it reads them, so that what is compared are the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from pipelines.core.loop import Run
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.schedule import DiscreteSchedule, Level
from pipelines.samplers import SAMPLERS
from tests.pipelines.gaussian import GaussianNetwork, last_of, run_of

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SD = DiscreteSchedule(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2), steps_offset=1)
STEPS = 12
LATENTS = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 3, 3)


class Recorded:
    """Noise that is drawn once and given to both sides in the same order."""

    def __init__(self):
        self._generator = torch.Generator().manual_seed(11)
        self.drawn: list[torch.Tensor] = []

    def __call__(self, like):
        self.drawn.append(torch.randn(like.shape, generator=self._generator, dtype=torch.float64))
        return self.drawn[-1]


def stock_noise(monkeypatch, module: str) -> Recorded:
    """Let a diffusers scheduler draw from a recorded source."""
    recorded = Recorded()
    monkeypatch.setattr(
        f"diffusers.schedulers.{module}.randn_tensor", lambda shape, **arguments: recorded(torch.empty(shape))
    )
    return recorded


def in_float64(scheduler):
    """The scheduler with its tables, which it keeps in float32, computed in float64 where it reads them."""
    for name in ("alphas_cumprod", "sigmas"):
        if isinstance(getattr(scheduler, name, None), torch.Tensor):
            setattr(scheduler, name, getattr(scheduler, name).double())
    return scheduler


def network_noise(latents, level: Level):
    """The perfect estimate of eps."""
    return (latents - level.alpha * latents_mean(latents, level)) / level.sigma


def latents_mean(latents, level: Level):
    network = GaussianNetwork(Fixed(level), "sample")
    return network.predict_raw(latents, torch.zeros(len(latents)), Conditioning())


class Fixed:
    """A noise schedule of one level."""

    def __init__(self, level: Level):
        self.level = level

    def at(self, timestep):
        return self.level


class Levels(DiscreteSchedule):
    """Stable Diffusion's schedule, exactly the given levels at their times."""

    def __init__(self, levels=()):
        super().__init__(SD.alphas_cumprod, 1)
        self._given = {level.timestep: level for level in levels if level.sigma > 0}

    def at(self, timestep):
        return self._given.get(timestep) or super().at(timestep)


def ours(key: str, settings: dict, levels, noise=None, latents=LATENTS):
    """Our run at these levels with the perfect denoiser in eps form."""
    schedule = Levels(levels)
    run = run_of(SAMPLERS[key].build(settings), levels, schedule, latents, prediction_type="epsilon")
    source = noise if noise is not None else run.noise
    return last_of(Run(run.denoiser, run.sampler, levels, latents, source, schedule)).latents


class Replayed(NoiseSource):
    """Noise that was drawn before, in order, whatever span it is for."""

    def __init__(self, drawn: Iterable[torch.Tensor]):
        super().__init__([])
        self._drawn = iter(drawn)

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        return next(self._drawn)


def replayed(recorded: Recorded) -> Replayed:
    """The noise that the other side drew, in order."""
    return Replayed(recorded.drawn)


def sigma_levels(scheduler) -> list[Level]:
    """The N + 1 levels of a scheduler that keeps sigma / alpha."""
    pairs = zip(scheduler.sigmas.tolist(), [*scheduler.timesteps.tolist(), 0], strict=True)
    return [Level(1 / math.sqrt(1 + s**2), s / math.sqrt(1 + s**2), float(time)) for s, time in pairs]


def multistep(scheduler, levels, latents=LATENTS):
    """A run of a scheduler that works on variance-preserving latents."""
    for time, level in zip(scheduler.timesteps, levels, strict=False):
        latents = scheduler.step(network_noise(latents, level), time, latents, return_dict=False)[0]
    return latents


def close(mine, theirs, tolerance: float, name: str):
    difference = float((mine - theirs).abs().max() / theirs.abs().max())
    print(f"parity {name}: {difference:.1e}")
    assert difference < tolerance


def started(scheduler, steps: int = STEPS):
    scheduler.set_timesteps(steps)
    return in_float64(scheduler)

"""A noise schedule as k-diffusion keeps it: a table of float32 sigmas, and times for what lies between."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from pipelines.core.schedule import CLEAN, DiscreteSchedule, Level

__all__ = ["SigmaTable", "alphas_cumprod_of"]

_SAME = 1e-4
"""How far recomputed alphas_cumprod may lie from the model's own, which many libraries compute in float32."""

_TERMINAL = 4.8973451890853435e-08
"""Stands in ComfyUI and A1111 for an alphas_cumprod of zero: a largest sigma of 4518.8, where diffusers has 4096."""


class SigmaTable:
    """A sigma table is a diffusion model's schedule with the rounding of another program.

    Levels are exact in sigma = sigma / alpha as float32; the network's time is the nearest whole step in ln(sigma)
    (ComfyUI) or interpolated (k-diffusion, A1111).

    Args:
        sigmas: (T,), ascending, in the precision in which their logarithm is taken.
        steps_offset: as in `DiscreteSchedule`.
        nearest: whether times are whole.

    Source: k-diffusion, `DiscreteSchedule`; ComfyUI, `comfy/model_sampling.py`, `ModelSamplingDiscrete`.
    """

    shift = 1.0

    def __init__(self, sigmas: torch.Tensor, steps_offset: int = 0, nearest: bool = True):
        self.sigmas, self.steps_offset, self.nearest = sigmas.float(), steps_offset, nearest
        self.log_sigmas = sigmas.log().float()
        self.num_train_timesteps = len(sigmas)
        self._logarithms = self.log_sigmas.double().numpy()

    def between(self, times: torch.Tensor) -> torch.Tensor:
        """Interpolate sigma at fractional times (N,), float32, linearly in its logarithm."""
        low, high, share = times.floor().long(), times.ceil().long(), times.frac()
        logarithm: torch.Tensor = (1 - share) * self.log_sigmas[low] + share * self.log_sigmas[high]
        return logarithm.exp()

    def at(self, timestep: float) -> Level:
        if timestep == int(timestep):
            return self._level(float(self.sigmas[int(timestep)]), float(timestep))
        sigma = float(self.between(torch.tensor([timestep], dtype=torch.float32))[0])
        return self.at_sigma_ve(sigma) if self.nearest else self._level(sigma, float(timestep))

    def at_sigma_ve(self, sigma_ve: float) -> Level:
        if sigma_ve == 0:
            return CLEAN
        if self.nearest:
            # In float32, for where two steps are as near.
            distances = torch.tensor(sigma_ve, dtype=torch.float32).log() - self.log_sigmas
            return self._level(sigma_ve, float(distances.abs().argmin()))
        timestep = np.interp(math.log(sigma_ve), self._logarithms, np.arange(self.num_train_timesteps))
        return self._level(sigma_ve, float(timestep))

    def network_time(self, fraction: float) -> float:
        return max(0.0, self.num_train_timesteps * fraction - 1)

    def initial_scale(self, level: Level) -> float:
        return 1.0

    @staticmethod
    def _level(sigma_ve: float, timestep: float) -> Level:
        alpha = 1 / math.sqrt(1 + sigma_ve**2)
        return Level(alpha, sigma_ve * alpha, timestep)


def alphas_cumprod_of(noise_schedule: DiscreteSchedule, config: Mapping[str, object]) -> torch.Tensor:
    """Compute alphas_cumprod, (T,), float64, as CompVis' code does, where the model's betas are of a kind known there.

    Diffusers computes them in float32, off by up to 1e-5 of sigma, which a Brownian path notices. A model whose last
    level has no signal (`rescale_betas_zero_snr`) gets the peers' value there instead of diffusers' 2^-24.

    Args:
        noise_schedule: of the model.
        config: of its scheduler.

    Returns:
        The recomputed values where they agree with the model's to 1e-4, else the model's own.

    Source: CompVis, latent-diffusion, `make_beta_schedule` ("linear", which diffusers calls scaled_linear); Lin et al.,
    arXiv:2305.08891, algorithm 1, with the last value of ComfyUI 0.3.64 (`rescale_zero_terminal_snr_sigmas`).
    """
    given = torch.from_numpy(noise_schedule.alphas_cumprod)
    first, last, kind = (config.get(name) for name in ("beta_start", "beta_end", "beta_schedule"))
    if kind not in ("scaled_linear", "linear") or not isinstance(first, float) or not isinstance(last, float):
        return given
    power = 0.5 if kind == "scaled_linear" else 1.0
    betas = torch.linspace(first**power, last**power, len(given), dtype=torch.float64) ** (1 / power)
    computed = torch.cumprod(1 - betas, dim=0)
    if not config.get("rescale_betas_zero_snr"):
        return computed if bool(((computed - given).abs() <= _SAME * given).all()) else given
    computed = _without_terminal_signal(computed)
    return computed if bool(((computed - given).abs() <= _SAME * given)[:-1].all()) else given


def _without_terminal_signal(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    roots = alphas_cumprod.sqrt()
    rescaled: torch.Tensor = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
    rescaled[-1] = _TERMINAL
    return rescaled

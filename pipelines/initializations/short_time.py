"""A short diffusion time: the run begins at less noise, with a draw from a Gaussian fitted to the model's data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch

from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level
from pipelines.initializations.base import Beginning, StartContext
from pipelines.initializations.fitted import (
    DENOISING_GAIN,
    STATISTICS,
    DenoisingGain,
    Statistics,
    fitted_file,
    load_denoising_gain,
    load_statistics,
    require_shape,
)

__all__ = [
    "ShortTime",
    "ShortTimeSettings",
    "accumulate_gain",
    "draw_auxiliary_prior",
    "estimate_by_gaussian",
    "find_shortest_time",
    "prior_divergence",
]

_FINE = 2048  # points of the integral over the signal-to-noise ratio


@dataclasses.dataclass(frozen=True)
class ShortTimeSettings:
    slack: float = setting(
        0.0,
        "Nats by which the bound may be missed; the more, the shorter the time and the fewer steps.",
        low=0,
        high=100,
        step=0.5,
    )


def prior_divergence(level: Level, scale: float, statistics: Statistics) -> float:
    """Compute KL(nu || p): what a run from pure noise begins with in error, in nats, as far as two moments tell.

    nu is the Gaussian of the noised data's mean and covariance at `level`, p = N(0, scale^2) the noise of a run.
    """
    mean, variances = level.alpha * statistics.mean.flatten(), _noised_variances(level, statistics)
    ratios = variances / scale**2
    return float(0.5 * ((ratios - 1 - ratios.log()).sum() + mean.square().sum() / scale**2))


def _noised_variances(level: Level, statistics: Statistics) -> torch.Tensor:
    rest = statistics.variances.new_full((statistics.mean.numel() - len(statistics.variances),), statistics.rest)
    return level.sigma**2 + level.alpha**2 * torch.cat([statistics.variances, rest])


def estimate_by_gaussian(latents: torch.Tensor, level: Level, statistics: Statistics) -> torch.Tensor:
    """Compute E[x0 | x] as if the data were the fitted Gaussian, (B, C, h, w) float64, of latents (B, C, h, w) at
    `level`."""
    mean, alpha = statistics.mean.flatten(), level.alpha

    def gain(variance: torch.Tensor) -> torch.Tensor:
        return alpha * variance / (level.sigma**2 + alpha**2 * variance)

    apart = latents.double().flatten(1) - alpha * mean
    rest = gain(statistics.variances.new_tensor(statistics.rest))
    along = apart @ statistics.directions
    estimate = mean + rest * apart + ((gain(statistics.variances) - rest) * along) @ statistics.directions.T
    return estimate.reshape(latents.shape)


def accumulate_gain(gain: DenoisingGain, first: Level, level: Level) -> float:
    """Compute 1/2 * integral of (error of the Gaussian's estimate - error of the network's) over alpha^2 / sigma^2, in
    nats, from level `first` to a less noisy one; the gain is interpolated in the ratio's logarithm."""
    low, high = _ratio(first), _ratio(level)
    if high <= low:
        return 0.0
    points = torch.linspace(0, 1, _FINE, dtype=torch.float64)
    # Even in the logarithm, but for a first level of pure noise, whose ratio is 0.
    begin = min(max(low, 1e-3 * float(gain.log_snr[0].exp())), high)
    ratios = torch.cat([points.new_tensor([low]), begin * (high / begin) ** points])
    return float(0.5 * torch.trapezoid(_interpolate(ratios, gain), ratios))


def _ratio(level: Level) -> float:
    return (level.alpha / level.sigma) ** 2


def _interpolate(ratios: torch.Tensor, gain: DenoisingGain) -> torch.Tensor:
    """The gain at signal-to-noise ratios, that of the nearest end outside of what was measured."""
    logs = ratios.clamp_min(1e-30).log().clamp(gain.log_snr[0], gain.log_snr[-1])
    upper = torch.searchsorted(gain.log_snr, logs).clamp(1, len(gain.log_snr) - 1)
    left, right = gain.log_snr[upper - 1], gain.log_snr[upper]
    share = (logs - left) / (right - left)
    return gain.gain[upper - 1] * (1 - share) + gain.gain[upper] * share


def find_shortest_time(
    levels: Sequence[Level], scale: float, statistics: Statistics, gain: DenoisingGain, slack: float = 0.0
) -> int:
    """Find the last of a schedule's levels at which the bound with the fitted prior is no worse than with pure noise.

    With a prior nu at level t the evidence's bound is higher than with noise p at the first level T by

        KL(q_T || p) - KL(q_T || nu_T) - 1/2 * integral over the ratios from T to t of (L_nu - L)

    where L and L_nu are the mean squared errors of the network's estimate of x0 and of the Gaussian's, and the first
    two terms are KL(nu_T || p), since nu has q's moments. One step is always left.

    Args:
        levels: N + 1, descending.
        scale: standard deviation of the noise at levels[0].
        statistics: of the data.
        gain: L_nu - L as measured.
        slack: nats by which it may be lower.

    Source: Franzese et al., arXiv:2206.05173, section 3: the new diffusion time is the least whose bound, with the
    auxiliary model, is not below that of the full time. The integrals are the I-MMSE relation for a mismatched
    estimate (Verdu, arXiv:0906.0542), by which both the divergence from the auxiliary model and the gap of the score
    are errors of estimates, and the true score cancels.
    """
    budget = prior_divergence(levels[0], scale, statistics) + slack
    spent = [accumulate_gain(gain, levels[0], level) for level in levels[:-1]]
    return max(index for index, nats in enumerate(spent) if nats <= budget)


def draw_auxiliary_prior(unit_noise: torch.Tensor, level: Level, statistics: Statistics) -> torch.Tensor:
    """Draw from the Gaussian of the noised data: alpha * mu + U sqrt(sigma^2 + alpha^2 * L) U^T z.

    Args:
        unit_noise: z, (B, C, h, w), unit normal.
        level: of the draw.
        statistics: of the data.

    Returns: latents (B, C, h, w) at `level`, in float64 on the CPU, since some devices have no float64.
    """
    noise = unit_noise.cpu().double().flatten(1)
    rest = (level.sigma**2 + level.alpha**2 * statistics.rest) ** 0.5
    scales = (level.sigma**2 + level.alpha**2 * statistics.variances).sqrt()
    along = noise @ statistics.directions
    drawn = rest * noise + ((scales - rest) * along) @ statistics.directions.T
    return (level.alpha * statistics.mean.flatten() + drawn).reshape(unit_noise.shape)


class ShortTime:
    """Begins at the shortest diffusion time whose bound holds, with a draw from a fitted Gaussian in the place of
    noise.

    Source: Franzese et al., How much is enough? A study on diffusion times in score-based generative models,
    arXiv:2206.05173, section 4: an auxiliary model of the noised data bridges the gap to a short time.
    Differs: the auxiliary model is a Gaussian of the data's mean and covariance, where the authors fit mixtures and
    flows; the time is the nearest level of the schedule above the bound's, and steps above it are left out. Mean,
    covariance and errors are those of all the data without a prompt.
    """

    most_pictures: ClassVar[int] = 0

    def __init__(self, settings: ShortTimeSettings = ShortTimeSettings()):
        self.slack = settings.slack

    def begin(self, latents: torch.Tensor, levels: Sequence[Level], context: StartContext) -> Beginning:
        statistics = load_statistics(fitted_file(context, STATISTICS))
        gain = load_denoising_gain(fitted_file(context, DENOISING_GAIN))
        require_shape(context, statistics.mean.shape, latents)
        scale = context.noise_schedule.initial_scale(levels[0])
        first = find_shortest_time(levels, scale, statistics, gain, self.slack)
        drawn = draw_auxiliary_prior(latents / scale, levels[first], statistics)
        return drawn.to(latents), levels[first:]
        yield  # a generator without a question

    def list_files(self, num_steps: int) -> Sequence[str]:
        return (STATISTICS, DENOISING_GAIN)

    def remaining_steps(self, num_steps: int) -> int | None:
        return None

    def nfe(self, num_steps: int, sampler: Sampler, ends_clean: bool = True) -> int:
        """Count the evaluations of a run that leaves no step out, the most there can be."""
        return sampler.nfe(num_steps, ends_clean)

"""The Gaussian-analytic start: the first steps in closed form, as if the data were one Gaussian."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch

from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level
from pipelines.initializations.base import Beginning, StartContext, count_skipped_steps
from pipelines.initializations.fitted import STATISTICS, Statistics, fitted_file, load_statistics, require_shape

__all__ = ["GaussianSettings", "GaussianStart", "gaussian_flow"]


@dataclasses.dataclass(frozen=True)
class GaussianSettings:
    share: float = setting(
        0.2,
        "Share of the steps that the formula takes; the more, the more guidance it needs.",
        low=0,
        high=0.8,
        step=0.05,
        label="steps skipped",
    )


def gaussian_flow(latents: torch.Tensor, level: Level, next_level: Level, statistics: Statistics) -> torch.Tensor:
    """Compute a' * mu + U sqrt((s'^2 + a'^2 * L) / (s^2 + a^2 * L)) U^T (x - a * mu): the probability-flow ODE on a
    Gaussian.

    Exact from any level to any other, for diffusion and flow models alike (a is alpha, s sigma, L the variances).

    Args:
        latents: (B, C, h, w) at `level`.
        statistics: of the data, its directions orthonormal.

    Returns: latents at `next_level`, in float64 on the CPU, since some devices have no float64.
    Source: Wang & Vastola, arXiv:2412.09726, the solution for a Gaussian score, there with alpha = 1.
    """
    mean, directions, variances = statistics.mean.flatten(), statistics.directions, statistics.variances

    def scale(variance: torch.Tensor) -> torch.Tensor:
        before = level.sigma**2 + level.alpha**2 * variance
        return ((next_level.sigma**2 + next_level.alpha**2 * variance) / before).sqrt()

    apart = latents.cpu().double().flatten(1) - level.alpha * mean
    rest = scale(variances.new_tensor(statistics.rest))
    along = apart @ directions
    scaled = rest * apart + ((scale(variances) - rest) * along) @ directions.T
    return (next_level.alpha * mean + scaled).reshape(latents.shape)


class GaussianStart:
    """Walks the first steps of the schedule by a formula, without the network.

    At high noise a denoiser sees little of the data but its mean and covariance, so there the exact solution for
    a Gaussian of these is close to the model's own trajectory.

    Source: Wang & Vastola, The unreasonable effectiveness of Gaussian score approximation for diffusion models and
    its applications, arXiv:2412.09726 ("analytical teleportation"), who save 15 to 30 % of the evaluations.
    Differs: the Gaussian is that of all the data, whatever the prompt says, where the authors' models have none. What
    a prompt decides at high noise is lost: the picture is another one than the whole schedule gives from the same
    noise, and it takes guidance to bring the prompt back (figures in assets/models/emoji-starts/README.md).
    """

    most_pictures: ClassVar[int] = 0

    def __init__(self, settings: GaussianSettings = GaussianSettings()):
        self.share = settings.share

    def begin(self, latents: torch.Tensor, levels: Sequence[Level], context: StartContext) -> Beginning:
        skipped_steps = count_skipped_steps(len(levels) - 1, self.share)
        if not skipped_steps:
            return latents, levels
        statistics = load_statistics(fitted_file(context, STATISTICS))
        require_shape(context, statistics.mean.shape, latents)
        next_latents = gaussian_flow(latents, levels[0], levels[skipped_steps], statistics)
        return next_latents.to(latents), levels[skipped_steps:]
        yield  # a generator without a question

    def list_files(self, num_steps: int) -> Sequence[str]:
        return (STATISTICS,) if count_skipped_steps(num_steps, self.share) else ()

    def remaining_steps(self, num_steps: int) -> int:
        return num_steps - count_skipped_steps(num_steps, self.share)

    def nfe(self, num_steps: int, sampler: Sampler, ends_clean: bool = True) -> int:
        return sampler.nfe(self.remaining_steps(num_steps), ends_clean)

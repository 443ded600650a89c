"""What a schedule is fitted for: a model, a sampler, a number of steps, and where a long run would end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.loop import Run, denoise
from pipelines.core.prediction import Guidance, Network
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level, NoiseSchedule
from pipelines.core.types import Request
from pipelines.learning.cases import Cases, finals
from pipelines.requests.reference import reference_of
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES

__all__ = ["Pictures", "Problem", "build_teacher_trajectory", "relative_error"]


def relative_error(latents: torch.Tensor, target: torch.Tensor) -> float:
    """Compute the root of the mean squared difference over the root of the wanted's mean square."""
    return float((latents - target).square().mean().sqrt() / target.square().mean().sqrt())


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Describes cases and what the teacher makes of them.

    Attributes:
        cases: the pictures.
        wanted: (N, C, h, w), the long run's final latents.
        path: (M + 1, N, C, h, w), its latents at all its levels.
        levels: its M + 1 levels.
    """

    cases: Cases
    final_latents: torch.Tensor
    path: torch.Tensor
    levels: tuple[Level, ...]

    def first(self, count: int) -> Pictures:
        """Return the first so many, or all."""
        return dataclasses.replace(
            self, cases=self.cases.part(0, count), final_latents=self.final_latents[:count], path=self.path[:, :count]
        )


@dataclasses.dataclass(frozen=True)
class Problem:
    """Describes one fit.

    Attributes:
        network: the model.
        noise_schedule: its own.
        guidance, sampler: of the run.
        num_steps: of the run.
        fitted, held_out: the pictures to fit to, and those that judge the result.
        rows: pictures evaluated at a time.
        cancelled: polled before every evaluation.
    """

    network: Network
    noise_schedule: NoiseSchedule
    guidance: Guidance
    sampler: Sampler
    num_steps: int
    fitted: Pictures
    held_out: Pictures
    rows: int = 16
    cancelled: Callable[[], bool] = lambda: False

    def error(self, levels: Sequence[Level], pictures: Pictures, sampler: Sampler | None = None) -> float:
        """Measure the relative error of a run over these levels, with another sampler where one is given."""
        ends = finals(
            pictures.cases,
            self.network,
            self.guidance,
            sampler or self.sampler,
            levels,
            self.noise_schedule,
            rows=self.rows,
            cancelled=self.cancelled,
        )
        return relative_error(ends, pictures.final_latents)

    def last_time(self) -> float:
        """Return the network's time at which every run starts."""
        return self.noise_schedule.network_time(1.0)


def build_teacher_trajectory(
    cases: Cases,
    network: Network,
    guidance: Guidance,
    noise_schedule: NoiseSchedule,
    *,
    flow: bool = False,
    steps: int = 60,
    rows: int = 16,
    cancelled: Callable[[], bool] = lambda: False,
) -> Pictures:
    """Build the cases with the long run that comparisons use as their reference.

    Raises:
        Cancelled: it was stopped.
    """
    long = reference_of(Request(), flow, steps)
    levels = SCHEDULES[long.schedule.key].build().levels(noise_schedule, steps)
    sampler = SAMPLERS[long.sampler.key].build()
    paths = []
    for part in cases.parts(rows):
        start = part.noise * noise_schedule.initial_scale(levels[0])
        denoiser = Denoiser(network, guidance, part.conditionings, cancelled)
        run = Run(denoiser, sampler, levels, start, part.source(), noise_schedule)
        paths.append(torch.stack([start, *(step.latents for step in denoise(run))]))
    path = torch.cat(paths, 1)
    return Pictures(cases, path[-1], path, tuple(levels))

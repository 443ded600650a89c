"""What a start is: how a run's first latents come to be, and how many of the schedule's steps they skip.

`begin` is a generator like a sampler's step: it may ask the network by yielding a `Query`, and returns the
latents with the levels that are left to walk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Prediction, Query
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level, NoiseSchedule

__all__ = ["Beginning", "Begun", "Start", "StartContext", "count_skipped_steps"]

Begun = tuple["torch.Tensor", Sequence[Level]]
"""Latents (B, C, h, w), and the levels from theirs to the end, at least two."""

Beginning = Generator[Query, Prediction, Begun]
"""A start in progress."""


@dataclasses.dataclass(frozen=True)
class StartContext:
    """Says what a start may use beside the noise.

    Attributes:
        noise: drawn from only where the method is stochastic.
        noise_schedule: gives the levels between two steps.
        model: key of the catalog, for messages.
        folder: where what was fitted for this model lies; None where nothing can be.
    """

    noise: NoiseSource
    noise_schedule: NoiseSchedule
    model: str = ""
    folder: Path | None = None


class Start(Protocol):
    """Represents one method of the start table, built with its settings.

    Attributes:
        most_pictures: of a run; 0 for any number.
    """

    most_pictures: ClassVar[int]

    def begin(self, latents: torch.Tensor, levels: Sequence[Level], context: StartContext) -> Beginning:
        """Go from noise (B, C, h, w) at levels[0] to the latents and levels that the sampler begins with."""

    def list_files(self, num_steps: int) -> Sequence[str]:
        """List the names of the fitted files that a run on a schedule of `num_steps` steps reads."""

    def remaining_steps(self, num_steps: int) -> int | None:
        """Count the steps that a schedule of `num_steps` leaves to the sampler; None where only the run can tell."""

    def nfe(self, num_steps: int, sampler: Sampler, ends_clean: bool = True) -> int:
        """Count the evaluations of the denoiser, its own and the sampler's, in a run on a schedule of `num_steps`
        steps.

        Args:
            num_steps: of the schedule.
            sampler: of the run.
            ends_clean: as in `Sampler.nfe`.
        """


def count_skipped_steps(num_steps: int, share: float) -> int:
    """Count the steps of a schedule that a start makes unnecessary: the share of them, rounded; one is always left."""
    return min(round(share * num_steps), num_steps - 1)

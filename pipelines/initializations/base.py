"""What a start is: how a run's first latents come to be, and how many of the schedule's steps they spare.

`begin` is a generator like a sampler's step: it may ask the network by yielding a `Query`, and returns the
latents with the levels that are left to walk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Protocol

import torch

from pipelines.core.denoiser import Prediction, Query
from pipelines.core.noise import NoiseSource
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level, NoiseSchedule

__all__ = ["Beginning", "Begun", "Start", "StartContext", "count_skipped_steps"]

Begun = tuple[torch.Tensor, Sequence[Level]]
"""Latents (B, C, h, w), and the levels from theirs to the end, at least two."""

Beginning = Generator[Query, Prediction, Begun]
"""A start in progress."""


@dataclasses.dataclass(frozen=True)
class StartContext:
    """What a start may use beside the noise.

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
    """One method of the start table, built with its settings."""

    def begin(self, latents: torch.Tensor, levels: Sequence[Level], context: StartContext) -> Beginning:
        """From noise (B, C, h, w) at levels[0] to the latents and levels that the sampler begins with."""

    def left(self, num_steps: int) -> int | None:
        """Steps that a schedule of `num_steps` leaves to the sampler; None where only the run can tell."""

    def nfe(self, num_steps: int, sampler: Sampler) -> int:
        """Evaluations of the denoiser, its own and the sampler's, in a run on a schedule of `num_steps` steps."""


def count_skipped_steps(num_steps: int, share: float) -> int:
    """Steps of a schedule that a start makes unnecessary: the share of them, rounded, one always being left."""
    return min(round(share * num_steps), num_steps - 1)

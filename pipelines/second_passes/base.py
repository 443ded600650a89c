"""What a second pass is: a finished picture's latents enlarged, to be denoised part of the way at the new size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F

from pipelines.core.loop import Run
from pipelines.families.base import Family
from pipelines.upscaling.upscalers import Upscaler

__all__ = [
    "MOST_FACTOR",
    "EnlargeContext",
    "NoSecondPass",
    "PassStart",
    "SecondPass",
    "SteeringPass",
    "enlarge_latents",
    "round_size",
]

MOST_FACTOR = 4.0


@dataclasses.dataclass(frozen=True)
class EnlargeContext:
    """Says what a second pass may use beside the latents.

    Attributes:
        family: the loaded model.
        size: (width, height) in pixels that is made.
        find_upscaler: from a key to the network, None for plain resampling.
        cancelled: polled between tiles.
    """

    family: Family
    size: tuple[int, int]
    find_upscaler: Callable[[str], Upscaler | None]
    cancelled: Callable[[], bool] = lambda: False


class SecondPass(Protocol):
    """Represents one method of the table, built with its settings.

    Attributes:
        factor: how many times wider and higher; 1 for no second pass.
        strength: share of the steps that are run at the new size.
        upscaler: key of the network that it needs; "" for none.
    """

    factor: float
    strength: float
    upscaler: str

    def enlarge(self, latents: torch.Tensor, context: EnlargeContext) -> torch.Tensor:
        """Bring clean latents (B, C, h, w) to those of the context's size."""


@dataclasses.dataclass(frozen=True)
class PassStart:
    """Says what a second pass begins with.

    Attributes:
        family: the loaded model.
        small: the first pass's clean latents, (B, C, h, w).
        enlarged: those at the new size.
        noise: unit normal, as `enlarged`, by which they were noised.
        skipped: steps of the whole schedule that are not run.
        num_steps: of the whole schedule.
    """

    family: Family
    small: torch.Tensor
    enlarged: torch.Tensor
    noise: torch.Tensor
    skipped: int
    num_steps: int

    def progress(self, index: int) -> float:
        """Compute how far the schedule is at level `index` of this run, 0 to 1."""
        return (self.skipped + index) / self.num_steps


@runtime_checkable
class SteeringPass(SecondPass, Protocol):
    """A second pass that acts on its run, too.

    Attributes:
        alone: why caches and pictures that steer a run cannot stand beside it; "" where they can.
    """

    alone: str

    def steer(self, run: Run, start: PassStart) -> Run:
        """Return the run as the method wants it.

        Raises:
            MethodFitError: another choice of the request stands against it.
        """


def enlarge_latents(latents: torch.Tensor, context: EnlargeContext) -> torch.Tensor:
    """Interpolate clean latents (B, C, h, w) to the context's size, bicubic; those of that size stay as they are."""
    shape = context.family.latent_shape(*context.size)[1:]
    return latents if latents.shape[-2:] == shape else F.interpolate(latents, shape, mode="bicubic")


class NoSecondPass:
    """Leaves the picture as it is."""

    factor, strength, upscaler = 1.0, 0.0, ""

    def enlarge(self, latents: torch.Tensor, context: EnlargeContext) -> torch.Tensor:
        return latents


def round_size(size: tuple[int, int], factor: float, multiple: int) -> tuple[int, int]:
    """Return a size in pixels times the factor, each side rounded to the nearest multiple, halves up."""
    width, height = (max(multiple, math.floor(side * factor / multiple + 0.5) * multiple) for side in size)
    return width, height

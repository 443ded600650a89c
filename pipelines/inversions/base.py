"""What an inversion is: a sampler over rising noise levels, and the sampler that goes back down its path.

An inversion is an ordinary run of the loop whose levels ascend; the run's steps are the trajectory. An edit
starts from the trajectory's end, with the source in the first row and the edit in the second.
"""

from __future__ import annotations

from typing import Protocol

import torch

from pipelines.core.errors import MethodFitError
from pipelines.core.sampler import Sampler
from pipelines.core.types import Trajectory

__all__ = ["SOURCE", "TARGET", "Inversion", "pivots", "require_gradient"]

SOURCE, TARGET = 0, 1
"""Rows of an edit's latents."""


class Inversion(Protocol):
    """Represents one method of the inversion table, built with its settings.

    Attributes:
        strength: share of the steps that are inverted, in (0, 1].
        is_random: whether the way up draws noise, so that another seed is another trajectory.
        replaces_negative: whether the source prompt stands in the negative prompt's place on the way down.
        holds_source: whether the way down puts the source's row back onto its path after every step.
        is_wordless: whether the way up is run with an empty prompt.
    """

    strength: float
    is_random: bool
    replaces_negative: bool
    is_wordless: bool
    holds_source: bool

    def guidance_scale(self, edit_scale: float) -> float:
        """Return the guidance on the way up, given that of the edit on the way down."""

    def start(self, image_latents: torch.Tensor) -> torch.Tensor:
        """Return the latents that `noising` starts from: (B, C, h, w), or more rows for what is carried beside them."""

    def noising(self) -> Sampler:
        """Return the sampler of a run over ascending levels."""

    def denoising(self, trajectory: Trajectory, guidance_scale: float = 1.0) -> Sampler:
        """Return the sampler of the run back down at this guidance scale, its rows as `forked` gives them."""

    def forked(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the trajectory's last latents of one picture, once for the source and once for the edit."""

    def visible(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the rows of a step's latents that are pictures."""


def pivots(trajectory: Trajectory) -> list[torch.Tensor]:
    """List latents by ascending level: of the picture itself, then after each step of the inversion."""
    return [trajectory.initial, *(step.latents for step in trajectory.steps)]


def require_gradient(value: torch.Tensor, label: str) -> None:
    """Refuse a network through which no gradient reaches what a method descends on.

    Raises:
        MethodFitError: it is one.
    """
    if not value.requires_grad:
        raise MethodFitError(
            f"{label} follows a gradient through the network, and none passes this one, as with W8A8. Choose another "
            "method, or the model in full precision."
        )

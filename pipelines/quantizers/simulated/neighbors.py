"""The two numbers of a format around each weight, between which every way of rounding chooses."""

from __future__ import annotations

import dataclasses

import torch

__all__ = ["Neighbors"]


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """Holds, for each weight, the largest number of its group's grid that is at most the weight, and the next one.

    A weight outside the grid's range has the grid's end for both.

    Attributes:
        down, up: of the weights' shape.
    """

    down: torch.Tensor
    up: torch.Tensor

    def nearest(self, weights: torch.Tensor) -> torch.Tensor:
        """Round to the nearer one; a tie goes down."""
        return torch.where(self.rounds_up(weights), self.up, self.down)

    def rounds_up(self, weights: torch.Tensor) -> torch.Tensor:
        """Say where rounding to the nearer one goes up."""
        return weights - self.down > self.up - weights

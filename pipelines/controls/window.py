"""In which steps a picture steers a run, and what a run's evaluations are given of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

__all__ = ["StepWindow", "WindowedTensors"]


@dataclasses.dataclass(frozen=True)
class StepWindow:
    """Bounds a part of a run.

    Attributes:
        begin, end: shares of the steps, 0 to 1.
    """

    begin: float = 0.0
    end: float = 1.0

    def holds(self, step: int, num_steps: int) -> bool:
        """Say whether a step lies inside it with its whole length, as diffusers counts.

        Args:
            step: from 0.
            num_steps: of the whole schedule.
        """
        return step / num_steps >= self.begin and (step + 1) / num_steps <= self.end


@dataclasses.dataclass(frozen=True)
class WindowedTensors:
    """Gives the network's evaluations tensors in some of the steps, and none in the others.

    Attributes:
        tensors: by branch, "positive" and "negative"; each name to (B, ...).
        window: in which steps.
    """

    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    window: StepWindow

    def at(self, branch: str, step: int, num_steps: int) -> Mapping[str, torch.Tensor]:
        """Return what a branch is given at a step.

        Args:
            branch: its name.
            step: of the run's whole schedule, from 0.
            num_steps: of that schedule.
        """
        if not self.window.holds(step, num_steps):
            return {}
        return self.tensors["negative" if branch.startswith("negative") else "positive"]

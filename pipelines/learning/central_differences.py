"""The slope of a run's factors, by central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipelines.learning.formula import Formula

__all__ = ["Factors"]

_SHIFT = 1e-3
"""Of a time in central differences: on float64 factors it leaves seven digits of the slope."""


class Factors(torch.autograd.Function):
    """A formula's numbers as a function of the schedule's, with the slope by central differences.

    The factors cost no network evaluation, so differences of them are cheap and, in float64, exact enough; the
    network's own slope is autograd's.
    """

    @staticmethod
    def forward(context: Any, values: torch.Tensor, write: Callable[[np.ndarray], Formula]) -> torch.Tensor:
        context.values, context.write = values.detach().numpy().copy(), write
        return torch.from_numpy(write(context.values).flat)

    @staticmethod
    def backward(context: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = np.zeros_like(context.values)
        for i in range(len(gradient)):
            ends = []
            for side in (1, -1):
                shifted_values = context.values.copy()
                shifted_values[i] += side * _SHIFT
                ends.append(context.write(shifted_values).flat)
            gradient[i] = slope.numpy() @ (ends[0] - ends[1]) / (2 * _SHIFT)
        return torch.from_numpy(gradient), None

"""Tensors of a batch remembered row by row, and put together again for another batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["RowOf", "join_rows", "split_rows"]


@dataclasses.dataclass(frozen=True)
class RowOf:
    """A row of an output: its place in tensors (R, ...), in tuples of them, or in None; they are never changed.

    Attributes:
        output: of the whole batch.
        index: of the row.
    """

    output: Any
    index: int


def split_rows(output: object, count: int) -> list[RowOf]:
    """Remember an output row by row, without copying it."""
    return [RowOf(output, index) for index in range(count)]


def join_rows(rows: Sequence[RowOf]) -> Any:
    """Put rows together to one output, in this order; without a copy where they are a whole batch as it was."""
    first = rows[0].output
    if all(row.output is first and row.index == index for index, row in enumerate(rows)) and _count(first) == len(rows):
        return first
    return _gather([row.output for row in rows], [row.index for row in rows])


def _count(output: object) -> int:
    """Rows of an output; 0 of one without tensors."""
    if isinstance(output, torch.Tensor):
        return len(output)
    return next((count for part in output if (count := _count(part))), 0) if isinstance(output, tuple) else 0


def _gather(outputs: Sequence[Any], indices: Sequence[int]) -> Any:
    if isinstance(outputs[0], torch.Tensor):
        return torch.stack([output[index] for output, index in zip(outputs, indices, strict=True)])
    if isinstance(outputs[0], tuple):
        return tuple(_gather(parts, indices) for parts in zip(*outputs, strict=True))
    return outputs[0]

"""A long evaluation that can be stopped: it is asked between its operations, and the longest of those are parted.

One evaluation of a large picture may take a CPU minutes, and nearly all of them in few operations: attention among all
places of the picture, and convolutions over it. Their parts are independent of each other: rows of queries, strips of
the output, rows of a matrix. So a part is computed at a time, which gives the same numbers up to the rounding of
another order of summation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pipelines.core.cancelling import Cancelled

__all__ = ["Interruptible"]

Operation = Callable[..., torch.Tensor]

_PART_SECONDS = 0.25
_FIRST_RATE = 1e10
"""Floating-point operations a second that are believed of this machine until a part was timed."""


class Interruptible(TorchFunctionMode):
    """While it is entered, every operation of this thread asks whether to go on, and long ones on a CPU are parted.

    Args:
        cancelled: polled before every operation and between the parts of one.
        part_seconds: how long a part may take, about.
    """

    def __init__(self, cancelled: Callable[[], bool], part_seconds: float = _PART_SECONDS):
        super().__init__()
        self._cancelled, self._part_seconds = cancelled, part_seconds
        self._rates: dict[Any, float] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._ask()
        part = _PARTED.get(func)
        if part is None:
            return func(*args, **(kwargs or {}))
        return part(self, func, *args, **(kwargs or {}))

    def _ask(self) -> None:
        if self._cancelled():
            raise Cancelled

    def parts(
        self, func: Operation, size: int, work: float, compute: Callable[[int, int], torch.Tensor], dim: int
    ) -> torch.Tensor:
        """Compute something in parts along one of its dimensions and join them.

        Args:
            func: the operation, whose speed is remembered.
            size: of the dimension.
            work: floating-point operations of the whole.
            compute: from start and stop along the dimension to that part.
            dim: along which the parts are joined.
        """
        results, start = [], 0
        while start < size:
            self._ask()
            share = self._rates.get(func, _FIRST_RATE) * self._part_seconds / max(work, 1.0)
            stop = min(size, start + max(1, int(size * share)))
            began = time.perf_counter()
            results.append(compute(start, stop))
            spent = time.perf_counter() - began
            self._rates[func] = work * (stop - start) / size / max(spent, 1e-6)
            start = stop
        return results[0] if len(results) == 1 else torch.cat(results, dim)

    def is_short(self, func: Operation, tensor: object, work: float) -> bool:
        """Whether an operation needs no parting: on another device than a CPU, or soon over."""
        is_elsewhere = not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu"
        return is_elsewhere or work <= self._rates.get(func, _FIRST_RATE) * self._part_seconds


def _attention(
    mode: Interruptible,
    func: Operation,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **more: object,
) -> torch.Tensor:
    """Attention by rows of queries, which see all keys: (..., L, E), (..., S, E), (..., S, V) -> (..., L, V)."""
    work = 4.0 * query.numel() * key.shape[-2]
    if is_causal or dropout_p or query.dim() < 3 or mode.is_short(func, query, work):
        return func(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **more)

    def rows(start: int, stop: int) -> torch.Tensor:
        mask = attn_mask
        if mask is not None and mask.dim() > 1 and mask.shape[-2] != 1:
            mask = mask[..., start:stop, :]
        return func(query[..., start:stop, :], key, value, attn_mask=mask, **more)

    return mode.parts(func, query.shape[-2], work, rows, -2)


def _convolution(
    mode: Interruptible,
    func: Operation,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> torch.Tensor:
    """A convolution by strips of its output, (B, C, H, W) to (B, D, H', W'): each needs the rows its kernel meets."""
    rest = (bias, stride, padding, dilation, groups)
    if isinstance(padding, str) or input.dim() != 4:
        return func(input, weight, *rest)
    (stride_y, stride_x), (pad_y, pad_x), (step_y, step_x) = (_pair(one) for one in (stride, padding, dilation))
    height, reach = input.shape[2], step_y * (weight.shape[2] - 1)
    out_rows = (height + 2 * pad_y - reach - 1) // stride_y + 1
    out_columns = (input.shape[3] + 2 * pad_x - step_x * (weight.shape[3] - 1) - 1) // stride_x + 1
    work = 2.0 * len(input) * out_rows * out_columns * weight.numel()
    if out_rows < 2 or mode.is_short(func, input, work):
        return func(input, weight, *rest)

    def strip(start: int, stop: int) -> torch.Tensor:
        first, last = start * stride_y - pad_y, (stop - 1) * stride_y - pad_y + reach
        lower = min(max(first, 0), height)
        rows = input[:, :, lower : max(min(last, height - 1) + 1, lower)]
        above = min(max(-first, 0), last - first + 1)  # a strip may lie in the padding altogether
        below = last - first + 1 - above - rows.shape[2]
        if above or below:
            rows = nn.functional.pad(rows, (0, 0, above, below))
        return func(rows, weight, bias, (stride_y, stride_x), (0, pad_x), (step_y, step_x), groups)

    return mode.parts(func, out_rows, work, strip, 2)


def _linear(
    mode: Interruptible, func: Operation, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """A linear layer by rows of its input, (..., I) -> (..., O)."""
    rows = input.numel() // max(input.shape[-1], 1)
    work = 2.0 * input.numel() * weight.shape[0]
    if rows < 2 or mode.is_short(func, input, work):
        return func(input, weight, bias)
    flat = input.reshape(rows, input.shape[-1])
    joined = mode.parts(func, rows, work, lambda start, stop: func(flat[start:stop], weight, bias), 0)
    return joined.reshape(*input.shape[:-1], joined.shape[-1])


def _pair(value: object) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return (values[0], values[-1])


_PARTED: dict[Any, Operation] = {
    nn.functional.scaled_dot_product_attention: _attention,
    torch.conv2d: _convolution,
    nn.functional.conv2d: _convolution,
    nn.functional.linear: _linear,
}

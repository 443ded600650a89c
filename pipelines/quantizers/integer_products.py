"""Products of eight-bit codes with bfloat16 inputs on a CPU that multiplies eight-bit integers, without new weights.

Making bfloat16 weights of the codes takes longer than the products where inputs are few. An input of sixteen bits is
two of eight, v = 256 high + low, so two exact integer products with the codes as they are stored give the same sums.
"""

from __future__ import annotations

import functools
from typing import TypeAlias

import torch

from pipelines.core.derivatives import is_differentiated
from pipelines.core.torch_build import has_onednn, has_vnni
from pipelines.quantizers.contract import TINY

__all__ = ["Split", "is_worth_splitting", "multiply_columns", "multiply_rows", "split_images", "split_rows"]

Split: TypeAlias = tuple["torch.Tensor", "torch.Tensor"]
"""Numbers as two halves of eight bits each, and the scales that make them the numbers that they stand for."""

_LARGEST = 127 * 256 + 127
"""Of the whole numbers: so large that both halves, the low one with a sign, are from -128 to 127."""

_WEIGHTS_PER_NUMBER = 12
"""What splitting an input or joining two sums costs, in weights that are made in bfloat16 in the same time."""


@functools.cache
def _has_kernels() -> bool:
    return has_onednn() and has_vnni()


def is_worth_splitting(codes: torch.Tensor, inputs: torch.Tensor, positions: int) -> bool:
    """Say whether products of integers are faster than weights made for one call, and may be used at all.

    Args:
        codes: (R, ...), of the weights.
        inputs: of the layer, whose derivatives integers do not carry.
        positions: how many columns of inputs each code is multiplied with.
    """
    rows = len(codes)
    columns = codes.numel() // rows
    return (
        0 < _WEIGHTS_PER_NUMBER * positions * (rows + columns) <= rows * columns
        and codes.dtype == torch.int8
        and inputs.dtype == torch.bfloat16
        and inputs.device.type == "cpu"
        and _has_kernels()
        and not is_differentiated(inputs)
    )


def _round(inputs: torch.Tensor, kept: int) -> Split:
    """Round to whole numbers, int16, with one scale for each index of the first dimensions."""
    wide = inputs.float()
    scales = wide.abs().amax(tuple(range(kept, wide.dim())), keepdim=True).div_(_LARGEST).clamp_min_(TINY)
    return wide.div_(scales).round_().to(torch.int16), scales


def split_rows(rows: torch.Tensor) -> Split:
    """Split (P, C) into (2P, C), int8, all high halves before the low ones, with a scale a row, (P, 1), float32.

    The error of a number is at most max|row| / 65278.
    """
    whole, scales = _round(rows, 1)
    return torch.cat([((whole + 128) >> 8).to(torch.int8), whole.to(torch.int8)]), scales


def split_images(images: torch.Tensor) -> Split:
    """Split (B, C, H, W) into both halves side by side in the bits of a bfloat16, with a scale an image, (B,), float32.

    As bfloat16, because PyTorch takes patches, which are copies, of no integers.
    """
    whole, scales = _round(images, 1)
    # The low byte is negative where its first bit is set, for which the high one makes up.
    return (whole + ((whole & 128) << 1)).view(torch.bfloat16), scales.flatten()


def multiply_rows(rows: Split, codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute x W^T + b in bfloat16, rounded once.

    Args:
        rows: as `split_rows` gives them.
        codes: (R, C), int8.
        scales: (R, 1), float32, of the codes.
        bias: (R,), or None.
    """
    halves, of_rows = rows
    high, low = torch._int_mm(halves, codes.t()).chunk(2)
    output = low.float().add_(high, alpha=256).mul_(of_rows).mul_(scales.view(1, -1))
    return (output if bias is None else output.add_(bias)).to(torch.bfloat16)


def multiply_columns(
    columns: Split, codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Compute W x + b in bfloat16, rounded once.

    Args:
        columns: (C, P), halves side by side as `split_images` gives them, and their scales, (P,).
        codes, scales, bias: as in `multiply_rows`.
    """
    halves, of_columns = columns
    low, high = torch._int_mm(codes, halves.view(torch.int8)).unflatten(1, (-1, 2)).unbind(2)
    output = low.float().add_(high, alpha=256).mul_(of_columns).mul_(scales)
    return (output if bias is None else output.add_(bias[:, None])).to(torch.bfloat16)

"""How weights are written in fewer bits, and what codecs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch.nn import functional

__all__ = ["BIAS", "Codec", "pack_nibbles", "scale_above", "unpack_nibbles"]

BIAS = "bias"


class Codec(Protocol):
    """Says how a matrix of weights is written in fewer bits."""

    @property
    def has_row_scales(self) -> bool:
        """Whether a weight is a code, exact in bfloat16, times the scale of its row."""

    def count_row_bytes(self, columns: int) -> int:
        """Count the bytes that a row of so many weights takes."""

    def pack(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute codes and scales of weights (R, C), float32; R is the layer's outputs."""

    def unpack(self, parts: Mapping[str, torch.Tensor], columns: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Compute the weights (R, C) again, each as near as codes and dtype allow; R may be a part of the rows.

        Args:
            parts: as `pack` gave them.
            columns: C.
            dtype: of the weights; None for float32.
        """


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Pack (..., c) codes of 0 to 15 as (..., ceil(c / 2)) bytes, the first of each pair in the low half."""
    codes = functional.pad(codes, (0, codes.shape[-1] % 2))
    pairs = codes.to(torch.uint8).unflatten(-1, (-1, 2))
    return pairs[..., 0] | (pairs[..., 1] << 4)


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Unpack the (..., 2n) codes of (..., n) bytes, uint8."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def scale_above(values: torch.Tensor) -> torch.Tensor:
    """Return values as float16, rounded away from zero, so that a range kept in float16 never becomes narrower."""
    half = values.to(torch.float16)
    short = half.float().abs() < values.abs()
    # The next float16 away from zero is the next bit pattern, whatever the sign; a zero needs its sign set first.
    signed = torch.where((half == 0) & (values < 0), torch.tensor(-0.0, dtype=torch.float16, device=half.device), half)
    return torch.where(short, (signed.view(torch.int16) + 1).view(torch.float16), half)

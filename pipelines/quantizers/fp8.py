"""Eight-bit floating point (four bits of exponent, three of mantissa), one scale for each output channel."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipelines.quantizers.contract import TINY
from pipelines.quantizers.packed import WeightOnly
from pipelines.quantizers.widening import widen

__all__ = ["Fp8", "Fp8Codec"]

_LARGEST = 448.0


class Fp8Codec:
    """Codes w = scale * q with q in e4m3 and scale = max|w| / 448 of the row: |error| <= max(|w| / 16, scale / 1024).

    Half a unit in the last place of three mantissa bits is a sixteenth; below 2^-6 the numbers are 2^-9 apart.

    Source: Micikevicius et al., FP8 formats for deep learning, arXiv:2209.05433, section 3.
    """

    has_row_scales = True

    def count_row_bytes(self, columns: int) -> int:
        return columns + 4

    def pack(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        scales = (rows.abs().amax(1, keepdim=True) / _LARGEST).clamp_min(TINY)
        return {"codes": (rows / scales).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn), "scales": scales}

    def unpack(self, parts: Mapping[str, torch.Tensor], columns: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return widen(parts["codes"], torch.float32).mul_(parts["scales"]).to(dtype or torch.float32)


def Fp8(settings: object) -> WeightOnly:
    """Build the method."""
    return WeightOnly(Fp8Codec())

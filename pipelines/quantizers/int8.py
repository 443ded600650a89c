"""Eight bits a weight, one scale for each output channel."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipelines.quantizers.contract import TINY
from pipelines.quantizers.packed import WeightOnly

__all__ = ["Int8", "Int8Codec"]

_LARGEST = 127


class Int8Codec:
    """Codes w = scale * q with q from -127 to 127 and scale = max|w| / 127 of the row: |error| <= scale / 2.

    Source: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
    arXiv:1712.05877, section 2.1, with zero-point 0; a scale for each channel as in Krishnamoorthi, arXiv:1806.08342,
    section 3.
    """

    has_row_scales = True

    def count_row_bytes(self, columns: int) -> int:
        return columns + 4

    def pack(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        scales = (rows.abs().amax(1, keepdim=True) / _LARGEST).clamp_min(TINY)
        codes = (rows / scales).round_().clamp_(-_LARGEST, _LARGEST)
        return {"codes": codes.to(torch.int8), "scales": scales}

    def unpack(self, parts: Mapping[str, torch.Tensor], columns: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return parts["codes"].float().mul_(parts["scales"]).to(dtype or torch.float32)


def Int8(settings: object) -> WeightOnly:
    """Build the method."""
    return WeightOnly(Int8Codec())

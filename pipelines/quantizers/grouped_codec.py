"""Weights in two to eight bits by group, packed without a gap; the bits may differ from layer to layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipelines.quantizers.bit_packing import count_packed_bytes, pack_bits, unpack_bits
from pipelines.quantizers.ranges import AffineGroups, search_ranges, split_groups

__all__ = ["GroupedCodec"]

_SCALES = 4
"""Bytes of a group's scale and lowest value, a float16 each."""


class GroupedCodec:
    """Codes w = lowest + scale * q with q from 0 to 2^bits - 1, as `Int4Codec` does, in any number of bits.

    Args:
        bits: of a code, 2 to 8.
        size: weights of a group, which divide a row without more padding than a weight a group (`fit_group_size`).
    """

    has_row_scales = False

    def __init__(self, bits: int, size: int):
        self.bits, self.size = bits, size

    def count_row_bytes(self, columns: int) -> int:
        return self.count_bytes(1, columns)

    def pack(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        groups = split_groups(rows, self.size)
        ranges = search_ranges(groups, 2**self.bits)
        return self.pack_codes(ranges, ranges.encode(groups, 2**self.bits))

    def pack_codes(self, ranges: AffineGroups, codes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pack ranges and codes (R, G, size) that were found elsewhere, and what they are."""
        return {
            "codes": pack_bits(codes.flatten(1), self.bits),
            "scales": ranges.scales.squeeze(2).half(),
            "lowest": ranges.lowest.squeeze(2).half(),
        }

    def unpack(self, parts: Mapping[str, torch.Tensor], columns: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        count = parts["scales"].shape[1]
        codes = unpack_bits(parts["codes"], count * self.size, self.bits).unflatten(1, (count, self.size))
        groups = torch.addcmul(parts["lowest"].float()[..., None], codes.float(), parts["scales"].float()[..., None])
        return groups.flatten(1)[:, :columns].to(dtype or torch.float32)

    def count_bytes(self, rows: int, columns: int) -> int:
        """Count the bytes of a layer's codes, scales and lowest values."""
        groups = -(-columns // self.size)
        return rows * (count_packed_bytes(groups * self.size, self.bits) + _SCALES * groups)

    @classmethod
    def of_parts(cls, parts: Mapping[str, torch.Tensor], columns: int) -> GroupedCodec:
        """Find the codec that made the parts of a layer whose rows have so many weights.

        Raises:
            ValueError: none did.
        """
        groups, packed = parts["scales"].shape[1], parts["codes"].shape[1]
        size = -(-columns // groups)
        bits = [bits for bits in range(2, 9) if count_packed_bytes(groups * size, bits) == packed]
        if len(bits) != 1:
            raise ValueError(f"{packed} bytes hold no row of {columns} weights in {groups} groups")
        return cls(bits[0], size)

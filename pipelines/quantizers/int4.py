"""Four bits a weight, two to a byte, with a scale and a lowest value for each group of neighbors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from pipelines.core.registry import setting
from pipelines.quantizers.codec import pack_nibbles, scale_above, unpack_nibbles
from pipelines.quantizers.packed import WeightOnly
from pipelines.quantizers.ranges import fit_group_size, search_ranges, split_groups

__all__ = ["Int4", "Int4Codec", "Int4Settings"]

_LEVELS = 15


@dataclasses.dataclass(frozen=True)
class Int4Settings:
    group_size: int = setting(
        64, "Weights that share a scale: fewer are more exact and take more bytes.", choices=(16, 32, 64, 128)
    )
    search: bool = setting(True, "Search each group's range for the least error; without, it is the extremes'.")


class Int4Codec:
    """Codes w = lowest + scale * q with q from 0 to 15, scale = (highest - lowest) / 15 of the group: |error| <= scale
    / 2.

    Both are kept in float16, rounded outwards, so that the bound holds for what is stored. The range always holds zero.

    With `search`, ranges are those of `search_ranges`, and the bound no longer holds for each weight: the squared error
    of every group is at most that of the whole range.

    Source: asymmetric round to nearest by group, as in Frantar et al., GPTQ, arXiv:2210.17323, section 4.
    Differs: no error feedback between the columns, hence no calibration data; groups divide the layer's width.
    """

    has_row_scales = False

    def __init__(self, group_size: int = 64, search: bool = False):
        self.group_size, self.search = group_size, search

    def count_row_bytes(self, columns: int) -> int:
        count = -(-columns // self.group_size)
        return -(-count * fit_group_size(columns, self.group_size) // 2) + 4 * count

    def pack(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        groups = split_groups(rows, fit_group_size(rows.shape[1], self.group_size))
        if self.search:
            ranges = search_ranges(groups, _LEVELS + 1)
            codes = pack_nibbles(ranges.encode(groups, _LEVELS + 1).flatten(1))
            return {
                "codes": codes,
                "scales": ranges.scales.squeeze(2).half(),
                "lowest": ranges.lowest.squeeze(2).half(),
            }
        lowest = scale_above(groups.amin(2, keepdim=True).clamp_max(0))
        highest = groups.amax(2, keepdim=True).clamp_min(0)
        scales = scale_above((highest - lowest.float()) / _LEVELS)
        step = scales.float().clamp_min(torch.finfo(torch.float32).tiny)
        codes = ((groups - lowest.float()) / step).round().clamp(0, _LEVELS)
        return {"codes": pack_nibbles(codes.flatten(1)), "scales": scales.squeeze(2), "lowest": lowest.squeeze(2)}

    def unpack(self, parts: Mapping[str, torch.Tensor], columns: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        count = parts["scales"].shape[1]
        codes = unpack_nibbles(parts["codes"])
        codes = codes[:, : codes.shape[1] // count * count].unflatten(1, (count, -1))
        groups = torch.addcmul(parts["lowest"].float()[..., None], codes.float(), parts["scales"].float()[..., None])
        return groups.flatten(1)[:, :columns].to(dtype or torch.float32)


def Int4(settings: Int4Settings = Int4Settings()) -> WeightOnly:
    """Build the method."""
    return WeightOnly(Int4Codec(settings.group_size, settings.search))

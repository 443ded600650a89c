"""Four bits a weight on sixteen levels that suit a normal distribution, one scale for each block."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from pipelines.core.registry import setting
from pipelines.quantizers.codec import pack_nibbles, scale_above
from pipelines.quantizers.packed import WeightOnly
from pipelines.quantizers.ranges import fit_group_size, split_groups

__all__ = ["LEVELS", "Nf4", "Nf4Codec", "Nf4Settings"]

LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""NF4: quantiles of the normal distribution scaled to [-1, 1], with an exact zero."""


@dataclasses.dataclass(frozen=True)
class Nf4Settings:
    block_size: int = setting(
        64, "Weights that share a scale: fewer are more exact and take more bytes.", choices=(16, 32, 64, 128)
    )


class Nf4Codec:
    """Codes w = scale * level[q] with scale = max|w| of the block: |error| <= scale * (half the gap between two
    levels).

    Source: Dettmers et al., QLoRA, arXiv:2305.14314, section 3 and appendix E.
    Differs: scales are kept in float16, rounded up, and not quantized again.
    """

    has_row_scales = False

    def __init__(self, block_size: int = 64):
        self.block_size = block_size
        self._pairs: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}
        self._quads: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

    def _pairs_on(self, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """(256, 2): the two levels of every byte, made once for a device and dtype and not in every call."""
        if (device, dtype) not in self._pairs:
            levels = torch.tensor(LEVELS)
            with torch.inference_mode(False):
                pairs = torch.stack([levels.repeat(16), levels.repeat_interleave(16)], dim=1)
                self._pairs[device, dtype] = pairs.to(device, dtype)
        return self._pairs[device, dtype]

    def _quads_on(self, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """(65536,): the four levels, of two bytes each, of every two bytes, as one int64."""
        if (device, dtype) not in self._quads:
            pairs = self._pairs_on(device, dtype)
            with torch.inference_mode(False):
                quads = torch.stack([pairs.repeat(256, 1), pairs.repeat_interleave(256, 0)], dim=1)
                self._quads[device, dtype] = quads.view(-1, 4).view(torch.int64).flatten()
        return self._quads[device, dtype]

    def count_row_bytes(self, columns: int) -> int:
        count = -(-columns // self.block_size)
        return -(-count * fit_group_size(columns, self.block_size) // 2) + 2 * count

    def pack(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        blocks = split_groups(rows, fit_group_size(rows.shape[1], self.block_size))
        scales = scale_above(blocks.abs().amax(2, keepdim=True))
        levels = torch.tensor(LEVELS, device=rows.device)
        between = (levels[1:] + levels[:-1]) / 2
        codes = torch.bucketize(blocks / scales.float().clamp_min(torch.finfo(torch.float32).tiny), between)
        return {"codes": pack_nibbles(codes.flatten(1)), "scales": scales.squeeze(2)}

    def unpack(self, parts: Mapping[str, torch.Tensor], columns: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        codes, dtype = parts["codes"], dtype or torch.float32
        count = parts["scales"].shape[1]
        weights = self._look_up(codes.flatten(), dtype).view(len(codes), -1)
        blocks = weights[:, : weights.shape[1] // count * count].unflatten(1, (count, -1))
        return blocks.mul_(parts["scales"].to(dtype)[..., None]).flatten(1)[:, :columns]

    def _look_up(self, codes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the levels of bytes, two of a byte; they are copied as one number of eight bytes where that fits."""
        pairs = self._pairs_on(codes.device, dtype)
        is_even = len(codes) % 2 == codes.storage_offset() % 2 == 0
        if codes.device.type == "cpu" and dtype.itemsize == 2 and is_even:
            indices = codes.view(torch.int16).int().bitwise_and_(0xFFFF)
            return torch.index_select(self._quads_on(codes.device, dtype), 0, indices).view(dtype)
        whole = pairs.view(torch.int64 if dtype.itemsize == 4 else torch.int32).flatten()
        return torch.index_select(whole, 0, codes.int()).view(dtype)


def Nf4(settings: Nf4Settings = Nf4Settings()) -> WeightOnly:
    """Build the method."""
    return WeightOnly(Nf4Codec(settings.block_size))

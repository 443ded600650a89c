"""Codes of one to eight bits, packed without a gap: planes of four, two and one bit, each whole bytes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

__all__ = ["count_packed_bytes", "pack_bits", "unpack_bits"]


def _list_planes(bits: int) -> Iterator[tuple[int, int]]:
    """Yield (bits of the plane, how far its bits stand from the lowest), the low plane first."""
    shift = 0
    for width in (4, 4, 2, 1):
        if bits - shift >= width:
            yield width, shift
            shift += width


def count_packed_bytes(columns: int, bits: int) -> int:
    """Count the bytes that a row of so many codes takes."""
    return sum(-(-columns * width // 8) for width, _ in _list_planes(bits))


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack (R, C) codes of 0 to 2^bits - 1 as (R, `count_packed_bytes`) bytes."""
    codes, planes = codes.to(torch.uint8), []
    for width, shift in _list_planes(bits):
        plane, each = codes >> shift & (1 << width) - 1, 8 // width
        if missing := -plane.shape[1] % each:
            plane = torch.nn.functional.pad(plane, (0, missing))
        parts = plane.unflatten(1, (-1, each))
        packed = parts[..., 0].clone()
        for place in range(1, each):
            packed |= parts[..., place] << width * place
        planes.append(packed)
    return torch.cat(planes, dim=1)


def unpack_bits(packed: torch.Tensor, columns: int, bits: int) -> torch.Tensor:
    """Unpack (R, columns) codes, uint8, of what `pack_bits` made."""
    codes, start = None, 0
    for width, shift in _list_planes(bits):
        size, mask = -(-columns * width // 8), (1 << width) - 1
        part = packed[:, start : start + size]
        start += size
        places = [part >> width * place for place in range(8 // width)]
        if width < 8:
            places = [place & mask for place in places[:-1]] + places[-1:]
        plane = torch.stack(places, dim=-1).flatten(1)[:, :columns]
        codes = plane if codes is None else codes | plane << shift
    if codes is None:
        raise ValueError(f"codes of {bits} bits cannot be unpacked: give 1 to 8")
    return codes

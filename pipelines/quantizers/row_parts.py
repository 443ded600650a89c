"""How many rows of a matrix of weights a CPU works on at once, so that its cache holds them."""

from __future__ import annotations

import torch

__all__ = ["choose_step", "count_packed_at_once", "even_out"]

_AT_ONCE = 8 * 2**20
"""Bytes of weights that a CPU unpacks at once: more would leave its cache, and the system would have to give and take
their memory in every call, which costs more than the unpacking."""

_PACKED_AT_ONCE = 2 * 2**20
"""Bytes in float32 of weights that a CPU packs, or compares with the packed ones, at once: all copies stay in cache."""

_ROWS_OF_A_KERNEL = 64


def count_packed_at_once(device: torch.device, count: int, columns: int) -> int:
    """Count the rows that are packed, or compared with the packed ones, at once; on other devices than CPUs all."""
    return max(1, min(count, _PACKED_AT_ONCE // (4 * columns))) if device.type == "cpu" else count


def choose_step(device: torch.device, count: int, columns: int, item_bytes: int) -> int:
    """Choose how many rows of a layer's weights are unpacked at once; on other devices than CPUs all."""
    row_bytes = columns * item_bytes
    if device.type != "cpu" or count * row_bytes <= _AT_ONCE:
        return count
    return even_out(max(1, _AT_ONCE // row_bytes), count)


def even_out(step: int, count: int) -> int:
    """Make parts of at most so many rows alike, of a multiple of 64, by which kernels divide their outputs."""
    whole = step // _ROWS_OF_A_KERNEL * _ROWS_OF_A_KERNEL
    if step >= count or not whole:
        return step
    alike = -(-count // -(-count // whole))
    return min(whole, -(-alike // _ROWS_OF_A_KERNEL) * _ROWS_OF_A_KERNEL)

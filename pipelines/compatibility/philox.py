"""Philox as CUDA draws it: PyTorch's normal numbers of a CUDA generator, in tensor code on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

__all__ = ["PhiloxGenerator", "philox4x32_10"]

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32_10(counter: torch.Tensor, key: tuple[int, int]) -> torch.Tensor:
    """Compute ten rounds of Philox 4x32.

    Args:
        counter: (4, n), int64, each a 32-bit word.
        key: two 32-bit words.

    Returns:
        (4, n), int64, each a 32-bit word.

    Source: Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011, section 3.3.
    """
    first, second, third, fourth = counter.unbind()
    low, high = key
    for _ in range(_ROUNDS):
        # A product of two words wraps around in int64 and keeps its 64 bits.
        left, right = first * _MULTIPLIERS[0], third * _MULTIPLIERS[1]
        first, second = (right >> 32 & _MASK) ^ second ^ low, right & _MASK
        third, fourth = (left >> 32 & _MASK) ^ fourth ^ high, left & _MASK
        low, high = (low + _WEYL[0]) & _MASK, (high + _WEYL[1]) & _MASK
    return torch.stack([first, second, third, fourth])


class PhiloxGenerator:
    """A generator draws what `torch.randn` draws with a CUDA generator of the same seed, one call after another.

    A thread of the GPU draws number i of a call at the counter (call, 0, i, 0) and turns the first two words into one
    normal number (Box and Muller).

    Args:
        seed: 0 to 2^64 - 1.

    Source: PyTorch, `aten/src/ATen/native/cuda/DistributionTemplates.h`, and NVIDIA's cuRAND (`curand_normal4`).
    Differs: a GPU with fewer threads at a time than there are numbers takes the further ones from later words; here
    every number has a thread. float64 until the end, where the GPU rounds in between (differences of 1e-7).
    """

    def __init__(self, seed: int):
        self.seed, self.calls = seed, 0

    def randn(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw float32 normal numbers on the CPU."""
        count = math.prod(shape)
        counter = torch.zeros(4, count, dtype=torch.int64)
        counter[0] = self.calls & _MASK
        counter[1] = self.calls >> 32
        counter[2] = torch.arange(count)
        self.calls += 1
        words = philox4x32_10(counter, (self.seed & _MASK, self.seed >> 32 & _MASK))[:2].double()
        radius, angle = (words + 0.5) / 2**32
        normal = torch.sqrt(-2 * torch.log(radius)) * torch.sin(2 * math.pi * angle)
        return normal.float().reshape(tuple(shape))

    def clone(self) -> PhiloxGenerator:
        """Make an independent generator that will draw the same numbers."""
        twin = PhiloxGenerator(self.seed)
        twin.calls = self.calls
        return twin

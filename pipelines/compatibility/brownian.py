"""A Brownian path fixed by a seed alone, whatever is asked of it and in which order: a binary tree of bridges."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch

__all__ = ["BrownianPath", "Draw"]

Draw = Callable[[int], "torch.Tensor"]
"""Draws standard normal numbers of the path's shape from a seed."""

_DIGITS = 6
"""Times are rounded to these decimals, where the tree ends."""

_POOL = 24
"""Words of the entropy pool of the seeds' sequence."""

_KEPT_DEPTH = 6
"""Increments of intervals down to this depth are kept, 2^7 tensors at most; deeper ones are drawn again."""


@dataclasses.dataclass(frozen=True)
class _Interval:
    """An interval of the tree: its ends, and its place, which fixes its seed."""

    start: float
    end: float
    key: int = 0
    depth: int = 0

    @property
    def middle(self) -> float:
        return round(0.5 * (self.end + self.start), _DIGITS)

    @property
    def left(self) -> _Interval:
        return _Interval(self.start, self.middle, 2 * self.key, self.depth + 1)

    @property
    def right(self) -> _Interval:
        return _Interval(self.middle, self.end, 2 * self.key + 1, self.depth + 1)


class BrownianPath:
    """A path gives the increment of a Brownian motion between any two times.

    Args:
        start, end: of its time, start below end.
        entropy: the seed.
        draw: standard normal numbers from a 32-bit seed; by default nothing is drawn twice alike.

    Source: the binary tree of Brownian bridges of `torchsde.BrownianTree` (Li et al., Scalable gradients for stochastic
    differential equations, arXiv:2001.01328, section 4; Kidger et al., Efficient and accurate gradients for neural
    SDEs, arXiv:2105.13493), whose numbers these are: its seeds, its order of sums, its rounding of times.
    """

    def __init__(self, start: float, end: float, entropy: int, draw: Draw):
        self.entropy, self.draw = entropy, draw
        self.whole = _Interval(round(start, _DIGITS), round(end, _DIGITS))
        first = int(np.random.SeedSequence(entropy, pool_size=_POOL).generate_state(3)[0])
        self._kept: dict[_Interval, torch.Tensor] = {self.whole: draw(first) * math.sqrt(end - start)}

    def __call__(self, start: float, end: float) -> torch.Tensor:
        """Find W(end) - W(start), start at most end; times outside the path are moved to its ends."""
        low, high = (round(min(max(time, self.whole.start), self.whole.end), _DIGITS) for time in (start, end))
        parts = [self._increment(one) for one in self._cover(self.whole, low, high)] if low < high else []
        if not parts:
            return torch.zeros_like(self._kept[self.whole])
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _cover(self, interval: _Interval, start: float, end: float) -> list[_Interval]:
        """List the fewest intervals of the tree that make up [start, end], which lies in the given one."""
        if start == interval.start and end == interval.end:
            return [interval]
        if end <= interval.middle:
            return self._cover(interval.left, start, end)
        if start >= interval.middle:
            return self._cover(interval.right, start, end)
        middle = interval.middle
        return [*self._cover(interval.left, start, middle), *self._cover(interval.right, middle, end)]

    def _increment(self, interval: _Interval) -> torch.Tensor:
        """Go down from the nearest interval whose increment is kept, bridging at each middle."""
        path = [interval]
        while path[-1] not in self._kept:
            path.append(self._parent(path[-1]))
        increment = self._kept[path.pop()]
        while path:
            child = path.pop()
            increment = self._bridge(self._parent(child), child, increment)
            if child.depth <= _KEPT_DEPTH:
                self._kept[child] = increment
        return increment

    def _parent(self, interval: _Interval) -> _Interval:
        found = self.whole
        for shift in range(interval.depth - 2, -1, -1):
            found = found.right if interval.key >> (shift + 1) & 1 else found.left
        return found

    def _bridge(self, parent: _Interval, child: _Interval, increment: torch.Tensor) -> torch.Tensor:
        """Find a half's increment given its parent's."""
        inverse = 1 / (parent.end - parent.start)
        left, right = parent.middle - parent.start, parent.end - parent.middle
        place = (parent.key, parent.depth)
        seed = int(np.random.SeedSequence(self.entropy, spawn_key=place, pool_size=_POOL).generate_state(4)[0])
        half = left * increment * inverse + math.sqrt(left * right * inverse) * self.draw(seed)
        return increment - half if child.key & 1 else half

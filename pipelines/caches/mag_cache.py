"""MagCache: a transformer's blocks rest while what they add should have kept its length."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

from pipelines.caches.intervals import WHOLE, CutCache
from pipelines.core.caching import CachedRow
from pipelines.core.errors import SettingsError
from pipelines.core.prediction import Network
from pipelines.core.registry import setting

__all__ = ["FLOW_CURVE", "MagCache", "MagCacheSettings", "magnitude_at", "parse_curve"]

_PART = "part"
_GONE = "gone"
FLOW_CURVE = (
    "1.0000, 1.0420, 1.0189, 0.9937, 0.9637, 0.9312, 0.9035, 0.8750, 0.8448, 0.8154, 0.7880, "
    "0.7602, 0.7337, 0.7061, 0.6777, 0.6492, 0.6190, 0.5880, 0.5585, 0.5432, 0.5418"
)
"""Of `emoji-128-flow`, by `python -m pipelines.learning.cache_curves`."""


@dataclasses.dataclass(frozen=True)
class MagCacheSettings:
    threshold: float = setting(
        0.06,
        "Sum of the lengths' errors from which on the blocks are run; 0 runs them always.",
        low=0,
        high=2,
        step=0.01,
    )
    most: int = setting(
        3, "Evaluations in a row that may leave them out.", low=1, high=50, step=1, label="Most in a row"
    )
    retention: float = setting(0.2, "Share of the steps that run all blocks at first.", low=0, high=1, step=0.05)
    curve: str = setting(
        "", "Lengths of what the blocks add at even times from 1000 to 0, with commas; empty for emoji-128-flow's."
    )

    def __post_init__(self) -> None:
        parse_curve(self.curve)


def parse_curve(text: str) -> tuple[float, ...]:
    """Read lengths, separated by commas; the shipped model's of an empty text.

    Raises:
        SettingsError: they are not numbers above 0.
    """
    try:
        values = tuple(float(one) for one in (text.strip() or FLOW_CURVE).split(","))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(one) and one > 0 for one in values):
        raise SettingsError(f"MagCache: curve is {text[:40]!r}. Choose one of numbers above 0, with commas.")
    return values


def magnitude_at(curve: Sequence[float], time: float) -> float:
    """Interpolate a length at a network's time, of those at even times from 1000 to 0."""
    if len(curve) == 1:
        return curve[0]
    place = min(max((1000 - time) / 1000, 0.0), 1.0) * (len(curve) - 1)
    left = min(int(place), len(curve) - 2)
    return curve[left] + (place - left) * (curve[left + 1] - curve[left])


@dataclasses.dataclass(frozen=True)
class MagCache(CutCache):
    """Leaves a transformer's blocks out while the lengths of what they add, known beforehand, have changed little.

    With r the ratio of the length at this time to that at the last time at which they ran, the errors |1 - r| are added
    up; at the threshold the blocks run again.

    Source: Ma et al., MagCache: Fast video generation with magnitude-aware cache, arXiv:2506.09045; threshold 0.06,
        three in a row and a fifth of the steps are diffusers' defaults.
    Differs: the ratios are those of one curve over the network's time, so that they serve every number of steps and
        every sampler; theirs are a list by step.
    """

    threshold: float = 0.06
    most: int = 3
    retention: float = 0.2
    curve: tuple[float, ...] = (1.0, 1.0)
    depth: int = 0

    @classmethod
    def build(cls, settings: MagCacheSettings = MagCacheSettings()) -> MagCache:
        return cls(settings.threshold, settings.most, settings.retention, parse_curve(settings.curve))

    def plan(self, rows: Sequence[CachedRow]) -> str:
        return _PART if self._gone(rows[0])[1] else WHOLE

    def _gone(self, row: CachedRow) -> tuple[float, int, float]:
        """Errors so far, evaluations in a row that were left out, and the time of the last that was not, after this."""
        place = row.place
        if not row.state or place.step < math.floor(self.retention * place.num_steps + 0.5):
            return 0.0, 0, place.level.timestep
        error, rested, last = row.state[_GONE]
        error += abs(1 - magnitude_at(self.curve, place.level.timestep) / magnitude_at(self.curve, last))
        # An error of 0 at a threshold of 0 is no reason to rest.
        if error < self.threshold and rested < self.most:
            return error, rested + 1, last
        return 0.0, 0, place.level.timestep

    @contextlib.contextmanager
    def applied(self, network: Network, plan: str, rows: Sequence[CachedRow]) -> Iterator[None]:
        gone = [self._gone(row) for row in rows]
        with super().applied(network, plan, rows):
            yield
        for row, one in zip(rows, gone, strict=True):
            row.pending[_GONE] = one

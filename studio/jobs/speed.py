"""How long a run will take, from how long others took: a request that cannot be done in time is refused at once."""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable

from pipelines.core.errors import SettingsError

__all__ = ["Speeds", "format_duration"]

_SMOOTHING = 0.3
_LEAST_SECONDS = 0.2
"""A shorter run says little of a longer one's speed."""


class Speeds:
    """Learns the seconds for a unit of work, by kind of work; safe to use from many threads.

    A unit is a step of one picture of 2^20 pixels. Larger pictures take longer for each unit than smaller ones, since
    attention grows with the square of the pixels: an estimate from smaller ones is too low, never too high by much.
    """

    def __init__(self) -> None:
        self._seconds: dict[Hashable, float] = {}
        self._lock = threading.Lock()

    def learn(self, kind: Hashable, units: float, seconds: float) -> None:
        """Remember a finished run.

        Args:
            kind: what it was a run of, such as a task and a model.
            units: of work.
            seconds: that it ran, without the loading of the model.
        """
        if units <= 0 or seconds < _LEAST_SECONDS or not math.isfinite(units):
            return
        with self._lock:
            average, measured = self._seconds.get(kind), seconds / units
            self._seconds[kind] = measured if average is None else average + _SMOOTHING * (measured - average)

    def estimate(self, kind: Hashable, units: float) -> float | None:
        """Estimate the seconds that so many units will take; None where no run of this kind was measured."""
        with self._lock:
            average = self._seconds.get(kind)
        return None if average is None else average * units

    def require(self, kind: Hashable, units: float, max_seconds: float) -> None:
        """Raise an error unless a run can end in time, as far as is known.

        Args:
            kind, units: as in `learn`.
            max_seconds: seconds that a run may take.

        Raises:
            SettingsError: it would take longer.
        """
        seconds = self.estimate(kind, units)
        if seconds is not None and seconds > max_seconds:
            raise SettingsError(
                f"By the speed measured so far this would take {format_duration(seconds)} here, and one run may take "
                f"{format_duration(max_seconds)}. Choose fewer steps, fewer pictures or a smaller size."
            )


def format_duration(seconds: float) -> str:
    """Write a length of time in words, to two digits: "45 seconds", "12 minutes"."""
    if seconds < 100:
        return f"{seconds:.2g} seconds"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"

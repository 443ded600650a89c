"""How a run is stopped: it asks, and raises."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Cancelled", "raise_if"]


class Cancelled(Exception):
    """Raised where the person stopped the run, which is a result and not an error."""


def raise_if(cancelled: Callable[[], bool]) -> None:
    """Raise Cancelled if the run is to stop.

    Args:
        cancelled: says so.
    """
    if cancelled():
        raise Cancelled

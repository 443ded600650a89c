"""Memory that a job has freed goes back to the system, so that a server's memory stays flat over its jobs."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable

__all__ = ["give_back", "set_start_aside"]


def _trim() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`; None where the C library has none (musl, macOS, Windows)."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None


_TRIM = _trim()


def give_back() -> None:
    """Return the heap's free pages: glibc keeps them, and tensors of ever other sizes leave ever more of them.

    Over 200 mixed jobs of the shipped model that was 35 MB; a call takes some 2 ms.
    """
    if _TRIM is not None:
        _TRIM(0)


def set_start_aside() -> None:
    """Take all objects that there are now out of what Python's collector looks through; call it once all is built.

    It also starts the collector, which `app.py` stops while it builds: it took 0.7 of the 5 s until the page stood.
    What the start has left in cycles, some 30,000 small objects, stays: looking for it holds all up for half a second.

    A page and its libraries are 600,000 objects, and Python looks through the old ones for unreachable cycles only when
    a quarter as many new ones have grown old: what a finished job had left in a cycle, an uploaded picture among it,
    stayed in memory for a hundred jobs. Without the start's own objects it is looked through soon, and in no time.
    """
    gc.freeze()
    gc.enable()
    gc.collect()  # now it knows how few are left, of which a quarter more is the measure

"""The last steps that were decoded sharply, so that asking again takes no time of the device."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

__all__ = ["SharpFrames"]

Pictures = tuple[np.ndarray, np.ndarray]
Key = tuple[str, int, int]


class SharpFrames:
    """Holds pictures by (job's id, cell, step); safe to use from many threads.

    Args:
        capacity: steps kept; a batch of large pictures takes some 100 MB.
    """

    def __init__(self, capacity: int = 2):
        self._capacity = capacity
        self._frames: OrderedDict[Key, Pictures] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, decode: Callable[[], Pictures | None]) -> Pictures | None:
        """Return the step's pictures, from `decode` where they are not stored; its None is not stored."""
        with self._lock:
            if key in self._frames:
                self._frames.move_to_end(key)
                return self._frames[key]
        pictures = decode()
        if pictures is not None:
            with self._lock:
                self._frames[key] = pictures
                while len(self._frames) > self._capacity:
                    self._frames.popitem(last=False)
        return pictures

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
    """Pictures by (job's id, cell, step); safe to use from many threads.

    Args:
        most: steps kept; a batch of large pictures takes some 100 MB.
    """

    def __init__(self, most: int = 2):
        self._most = most
        self._kept: OrderedDict[Key, Pictures] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, decode: Callable[[], Pictures | None]) -> Pictures | None:
        """The step's pictures, from `decode` where they are not here; None, which is not kept, where that gives none."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        pictures = decode()
        if pictures is not None:
            with self._lock:
                self._kept[key] = pictures
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return pictures

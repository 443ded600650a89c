"""What the tests of model_cache share."""

from __future__ import annotations

import random
import threading
import time

from pipelines.models.cache import Wanted


class Part:
    """A loaded object that knows whether it was freed."""

    def __init__(self, key, size):
        self.key, self.size, self.freed = key, size, False


class Device:
    """A pretended device that counts what is really on it."""

    def __init__(self, fail=0.0, load_seconds=0.0, free_seconds=0.0):
        self.lock, self.random = threading.Lock(), random.Random(0)
        self.bytes = self.peak = self.loads = 0
        self.loading, self.double_loads = set(), 0
        self.fail, self.load_seconds, self.free_seconds = fail, load_seconds, free_seconds

    def want(self, key, size, estimate=None):
        return Wanted(
            key,
            size if estimate is None else estimate,
            lambda abandoned: self._load(key, size),
            self._free,
            lambda part: part.size,
        )

    def _load(self, key, size):
        with self.lock:
            self.loads += 1
            self.double_loads += key in self.loading
            self.loading.add(key)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            fails = self.random.random() < self.fail
        time.sleep(self.load_seconds)
        with self.lock:
            self.loading.discard(key)
            if fails:
                self.bytes -= size
        if fails:
            raise OSError("torn file")
        return Part(key, size)

    def _free(self, part):
        time.sleep(self.free_seconds)
        part.freed = True
        with self.lock:
            self.bytes -= part.size


def in_threads(*works):
    """Run all at once; return what they raised (None where nothing)."""
    raised = [None] * len(works)

    def run(index):
        try:
            works[index]()
        except Exception as error:
            raised[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return raised

"""The models that stand in one device's memory: leased, shared, evicted within a budget of bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from pipelines.core.errors import BusyError, ModelError
from pipelines.core.leases import CacheRow, Lease, PartKey, Wanted, megabytes

__all__ = ["CacheRow", "Lease", "ModelCache", "PartKey", "Wanted"]

log = logging.getLogger(__name__)

RESERVED, LOADING, READY, FREEING = "reserved", "loading", "ready", "freeing"
POLL_SECONDS = 0.05
LARGER = "Choose a smaller model, or start with a larger memory budget."


@dataclasses.dataclass(eq=False)
class _Entry:
    want: Wanted
    bytes: int
    last_used: float
    state: str = RESERVED
    pins: int = 0
    doomed: bool = False
    object: Any = None


class ModelCache:
    """Loaded parts within a budget of bytes, for several threads.

    A job takes all its parts in one call, so two jobs can never each hold what the other waits for. Whoever
    needs new room is served in order of arrival; a job whose parts are all there passes at once.

    Args:
        budget_bytes: memory of the device that models may take.
        headroom_bytes: part of it kept free for activations.
        clock: seconds, for the order of use.
    """

    def __init__(self, budget_bytes: int, headroom_bytes: int = 0, clock: Callable[[], float] = time.monotonic):
        self.limit = budget_bytes - headroom_bytes
        if headroom_bytes < 0 or self.limit <= 0:
            raise ValueError(f"a budget of {budget_bytes} bytes leaves nothing after a headroom of {headroom_bytes}")
        self.budget_bytes, self.headroom_bytes, self.peak_bytes = budget_bytes, headroom_bytes, 0
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: dict[Hashable, _Entry] = {}
        self._queue: deque[object] = deque()

    def acquire(
        self, wanted: Sequence[Wanted], timeout: float = 120.0, cancelled: Callable[[], bool] = lambda: False
    ) -> Lease:
        """Everything a job needs, loaded and held until the lease is closed.

        Args:
            wanted: the parts; equal keys count once.
            timeout: seconds to wait for room; waiting for another's load of the same part is not counted.
            cancelled: polled while waiting.

        Raises:
            ModelError: the parts can never fit; or whatever a `load` raised.
            BusyError: no room came free in time.
            Cancelled: the person stopped the job.
        """
        wants = list({want.key: want for want in wanted}.values())
        entries = self._reserve(wants, timeout, cancelled)
        try:
            for entry, want in zip(entries, wants, strict=True):
                self._fill(entry, want, cancelled)
            objects = {want.key: entry.object for entry, want in zip(entries, wants, strict=True)}
        except BaseException:
            self._unpin(entries)
            raise
        return Lease(objects, lambda: self._unpin(entries))

    def require_possible(self, wanted: Sequence[Wanted]) -> None:
        """Raise ModelError if these parts can never be here together."""
        with self._changed:
            self._require_possible(list({want.key: want for want in wanted}.values()))

    def release(self, key: Hashable) -> bool:
        """Free a part on demand: True if it is gone, False if it is in use and goes when its last lease closes."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is None:
                return True
            if entry.pins or entry.state != READY:
                entry.doomed = True
                return False
            entry.state = FREEING
        self._free(entry)
        return True

    def holds(self, key: Hashable) -> bool:
        """Whether the part is loaded now."""
        with self._changed:
            entry = self._entries.get(key)
            return entry is not None and entry.state == READY

    def snapshot(self) -> list[CacheRow]:
        """All parts that count, the most recently used first."""
        with self._changed:
            rows = [
                CacheRow(key, entry.bytes, entry.pins, entry.last_used, entry.state)
                for key, entry in self._entries.items()
            ]
        return sorted(rows, key=lambda row: -row.last_used)

    @property
    def used_bytes(self) -> int:
        """Bytes held, reserved for a load, or still being freed."""
        with self._changed:
            return self._used()

    def _used(self) -> int:
        return sum(entry.bytes for entry in self._entries.values())

    def _reserve(self, wants: Sequence[Wanted], timeout: float, cancelled: Callable[[], bool]) -> list[_Entry]:
        """Pin all entries at once, those to be loaded with their bytes set aside."""
        ticket, deadline = object(), time.monotonic() + timeout
        with self._changed:
            self._queue.append(ticket)
            try:
                while True:
                    _raise_if(cancelled)
                    self._require_possible(wants)
                    entries = self._pin_all(wants, first=self._queue[0] is ticket)
                    if entries is not None:
                        return entries
                    victim = self._victim(wants) if self._queue[0] is ticket else None
                    if victim is not None:
                        self._free_unlocked(victim)
                    elif (left := deadline - time.monotonic()) <= 0:
                        raise BusyError(self._busy_sentence(wants))
                    else:
                        self._changed.wait(min(left, POLL_SECONDS))
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _require_possible(self, wants: Sequence[Wanted]) -> None:
        needed = sum(self._size(want) for want in wants)
        if needed > self.limit:
            raise ModelError(
                f"This needs {megabytes(needed)} of memory and the models may take {megabytes(self.limit)}. {LARGER}"
            )

    def _size(self, want: Wanted) -> int:
        entry = self._entries.get(want.key)
        return want.estimate_bytes if entry is None else entry.bytes

    def _missing(self, wants: Sequence[Wanted]) -> int:
        return sum(want.estimate_bytes for want in wants if want.key not in self._entries)

    def _pin_all(self, wants: Sequence[Wanted], first: bool) -> list[_Entry] | None:
        """All entries pinned, or None where one is being freed, or new ones do not fit or must queue."""
        if any(self._entries[want.key].state == FREEING for want in wants if want.key in self._entries):
            return None
        missing = self._missing(wants)
        if missing and (not first or self._used() + missing > self.limit):
            return None
        now = self._clock()
        for want in wants:
            entry = self._entries.setdefault(want.key, _Entry(want, want.estimate_bytes, now))
            entry.pins += 1
        self.peak_bytes = max(self.peak_bytes, self._used())
        return [self._entries[want.key] for want in wants]

    def _victim(self, wants: Sequence[Wanted]) -> _Entry | None:
        """The least recently used entry that nobody uses, if evicting such entries makes enough room."""
        keep = {want.key for want in wants}
        idle = [
            entry for key, entry in self._entries.items() if entry.state == READY and not entry.pins and key not in keep
        ]
        leaving = sum(entry.bytes for entry in self._entries.values() if entry.state == FREEING)
        excess = self._used() + self._missing(wants) - self.limit - leaving
        if excess <= 0 or sum(entry.bytes for entry in idle) < excess:
            return None
        return min(idle, key=lambda entry: entry.last_used)

    def _busy_sentence(self, wants: Sequence[Wanted]) -> str:
        held = sum(entry.bytes for entry in self._entries.values() if entry.pins)
        return (
            f"The memory is full: this needs {megabytes(self._missing(wants))} more, and other jobs hold "
            f"{megabytes(held)} of {megabytes(self.limit)}. Try again when they have finished."
        )

    def _fill(self, entry: _Entry, want: Wanted, cancelled: Callable[[], bool]) -> None:
        """Wait until the entry is loaded, or load it where nobody does."""
        with self._changed:
            while entry.state == LOADING:
                self._changed.wait(POLL_SECONDS)
                _raise_if(cancelled)
            if entry.state == READY:
                return
            _raise_if(cancelled)
            entry.state, entry.want = LOADING, want
        try:
            loaded = want.load()
            size = want.measure(loaded) if want.measure else want.estimate_bytes
        except BaseException:
            with self._changed:
                entry.state = RESERVED
                self._changed.notify_all()
            raise
        with self._changed:
            entry.object, entry.bytes, entry.state = loaded, size, READY
            self.peak_bytes = max(self.peak_bytes, self._used())
            self._changed.notify_all()
        self._settle(entry)

    def _settle(self, entry: _Entry) -> None:
        """After a load that took more than its estimate, evict until the budget holds again."""
        with self._changed:
            if entry.bytes > self.limit:
                entry.doomed = True
                raise ModelError(
                    f"The model took {megabytes(entry.bytes)} and models may take {megabytes(self.limit)}. {LARGER}"
                )
            while self._used() > self.limit:
                idle = [other for other in self._entries.values() if other.state == READY and not other.pins]
                if not idle:
                    log.warning(
                        "models take %s of %s: an estimate was too low, and all are in use",
                        megabytes(self._used()),
                        megabytes(self.limit),
                    )
                    return
                self._free_unlocked(min(idle, key=lambda other: other.last_used))

    def _unpin(self, entries: Sequence[_Entry]) -> None:
        leaving = []
        with self._changed:
            now = self._clock()
            for entry in entries:
                entry.pins -= 1
                entry.last_used = now
                if not entry.pins and entry.state == RESERVED:
                    del self._entries[entry.want.key]
                elif not entry.pins and entry.doomed and entry.state == READY:
                    entry.state = FREEING
                    leaving.append(entry)
            self._changed.notify_all()
        with contextlib.ExitStack() as stack:
            for entry in leaving:
                stack.callback(self._free, entry)

    def _free_unlocked(self, entry: _Entry) -> None:
        """Free an entry from inside the lock, which is let go meanwhile."""
        entry.state = FREEING
        self._changed.release()
        try:
            self._free(entry)
        finally:
            self._changed.acquire()

    def _free(self, entry: _Entry) -> None:
        """Drop an entry that is marked as being freed; its bytes count until this is done."""
        leaving, entry.object = entry.object, None
        try:
            if entry.want.free:
                entry.want.free(leaving)
            del leaving
        finally:
            with self._changed:
                del self._entries[entry.want.key]
                self._changed.notify_all()


def _raise_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        from pipelines.core.denoiser import Cancelled

        raise Cancelled

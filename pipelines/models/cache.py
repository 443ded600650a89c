"""The models that stand in one device's memory: leased, shared, evicted within a budget of bytes."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from pipelines.core.cancelling import raise_if
from pipelines.core.errors import BusyError, ModelError
from pipelines.core.leases import CacheRow, Lease, PartKey, Wanted, megabytes
from pipelines.models.cache_entry import FREEING, LOADING, READY, RESERVED, Entry, Load

__all__ = ["CacheRow", "Lease", "ModelCache", "PartKey", "Wanted"]

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
LARGER = "Choose a smaller model, or start with a larger memory budget."


class ModelCache:
    """Keeps loaded parts within a budget of bytes, for several threads.

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
        self._condition = threading.Condition()
        self._entries: dict[PartKey, Entry] = {}
        self._queue: deque[object] = deque()

    def acquire(
        self, requests: Sequence[Wanted], timeout: float = 120.0, cancelled: Callable[[], bool] = lambda: False
    ) -> Lease:
        """Load and hold everything a job needs until the lease is closed.

        Args:
            requests: the parts; equal keys count once.
            timeout: seconds to wait for room; waiting for another's load of the same part is not counted.
            cancelled: polled while waiting.

        Raises:
            ModelError: the parts can never fit; or whatever a `load` raised.
            BusyError: no room came free in time.
            Cancelled: the person stopped the job.
        """
        wants = list({want.key: want for want in requests}.values())
        entries = self._reserve(wants, timeout, cancelled)
        try:
            for entry, want in zip(entries, wants, strict=True):
                self._fill(entry, want, cancelled)
            objects = {want.key: entry.object for entry, want in zip(entries, wants, strict=True)}
        except BaseException:
            self._unpin(entries)
            raise
        return Lease(objects, lambda: self._unpin(entries))

    def require_possible(self, requests: Sequence[Wanted]) -> None:
        """Raise ModelError if these parts can never be here together."""
        with self._condition:
            self._require_possible(list({want.key: want for want in requests}.values()))

    def release(self, key: PartKey) -> bool:
        """Free a part on demand: True if it is gone, False if it is in use and goes when its last lease closes."""
        with self._condition:
            entry = self._entries.get(key)
            if entry is None:
                return True
            if entry.pins or entry.state != READY:
                entry.drop_when_unpinned = True
                return False
            entry.state = FREEING
        self._free(entry)
        return True

    def holds(self, key: PartKey) -> bool:
        """Say whether the part is loaded now."""
        with self._condition:
            entry = self._entries.get(key)
            return entry is not None and entry.state == READY

    def snapshot(self) -> list[CacheRow]:
        """Return all parts that count, the most recently used first."""
        with self._condition:
            rows = [
                CacheRow(key, entry.bytes, entry.pins, entry.last_used, entry.state)
                for key, entry in self._entries.items()
            ]
        return sorted(rows, key=lambda row: -row.last_used)

    @property
    def used_bytes(self) -> int:
        """Bytes held, reserved for a load, or still being freed."""
        with self._condition:
            return self._count_used_bytes()

    def _count_used_bytes(self) -> int:
        return sum(entry.bytes for entry in self._entries.values())

    def _reserve(self, wants: Sequence[Wanted], timeout: float, cancelled: Callable[[], bool]) -> list[Entry]:
        """Pin all entries at once, those to be loaded with their bytes set aside."""
        ticket, deadline = object(), time.monotonic() + timeout
        with self._condition:
            self._queue.append(ticket)
            try:
                while True:
                    raise_if(cancelled)
                    self._require_possible(wants)
                    entries = self._pin_all(wants, first=self._queue[0] is ticket)
                    if entries is not None:
                        return entries
                    victim = self._choose_victim(wants) if self._queue[0] is ticket else None
                    if victim is not None:
                        self._free_unlocked(victim)
                    elif (remaining := deadline - time.monotonic()) <= 0:
                        raise BusyError(self._explain_busy(wants))
                    else:
                        self._condition.wait(min(remaining, POLL_SECONDS))
            finally:
                self._queue.remove(ticket)
                self._condition.notify_all()

    def _require_possible(self, wants: Sequence[Wanted]) -> None:
        size = sum(self._find_size(want) for want in wants)
        if size > self.limit:
            raise ModelError(
                f"This needs {megabytes(size)} of memory and the models may take {megabytes(self.limit)}. {LARGER}"
            )

    def _find_size(self, want: Wanted) -> int:
        entry = self._entries.get(want.key)
        return want.estimate_bytes if entry is None else entry.bytes

    def _count_missing_bytes(self, wants: Sequence[Wanted]) -> int:
        return sum(want.estimate_bytes for want in wants if want.key not in self._entries)

    def _pin_all(self, wants: Sequence[Wanted], first: bool) -> list[Entry] | None:
        """All entries pinned, or None where one is being freed, or new ones do not fit or must queue."""
        if any(self._entries[want.key].state == FREEING for want in wants if want.key in self._entries):
            return None
        missing = self._count_missing_bytes(wants)
        if missing and (not first or self._count_used_bytes() + missing > self.limit):
            return None
        now = self._clock()
        for want in wants:
            entry = self._entries.setdefault(want.key, Entry(want, want.estimate_bytes, now))
            entry.pins += 1
        self.peak_bytes = max(self.peak_bytes, self._count_used_bytes())
        return [self._entries[want.key] for want in wants]

    def _choose_victim(self, wants: Sequence[Wanted]) -> Entry | None:
        """The least recently used entry that nobody uses, if evicting such entries makes enough room."""
        keep = {want.key for want in wants}
        idle = [
            entry for key, entry in self._entries.items() if entry.state == READY and not entry.pins and key not in keep
        ]
        leaving = sum(entry.bytes for entry in self._entries.values() if entry.state == FREEING)
        excess = self._count_used_bytes() + self._count_missing_bytes(wants) - self.limit - leaving
        if excess <= 0 or sum(entry.bytes for entry in idle) < excess:
            return None
        return min(idle, key=lambda entry: entry.last_used)

    def _explain_busy(self, wants: Sequence[Wanted]) -> str:
        pinned = sum(entry.bytes for entry in self._entries.values() if entry.pins)
        return (
            f"The memory is full: this needs {megabytes(self._count_missing_bytes(wants))} more, and other jobs hold "
            f"{megabytes(pinned)} of {megabytes(self.limit)}. Try again when they have finished."
        )

    def _fill(self, entry: Entry, want: Wanted, cancelled: Callable[[], bool]) -> None:
        """Wait until the entry is loaded, and have it loaded where nobody does.

        A load runs in a thread of its own, so that whoever is cancelled need not wait for it. It goes on while
        somebody wants the part, whoever asked first; once nobody does it may stop, or end and be kept.
        """
        own_load: Load | None = None
        with self._condition:
            while not (own_load.is_over if own_load else entry.state == READY):
                raise_if(cancelled)
                if own_load is None and entry.state == RESERVED:
                    entry.state, entry.want = LOADING, want
                    own_load = Load()
                    thread = threading.Thread(target=self._load, args=(entry, own_load), name="model-part", daemon=True)
                    thread.start()
                self._condition.wait(POLL_SECONDS)
        if own_load is not None:
            own_load.raise_error()

    def _load(self, entry: Entry, load: Load) -> None:
        """Load an entry for those who wait for it."""
        want = entry.want
        try:
            value = want.load(lambda: not entry.pins)
            size = want.measure(value) if want.measure else want.estimate_bytes
        except BaseException as error:
            with self._condition:
                entry.state, load.error, load.is_over = RESERVED, error, True
                if not entry.pins:
                    del self._entries[want.key]
                self._condition.notify_all()
            del load  # or the error holds itself through this frame, and what was half loaded stays in memory
            return
        with self._condition:
            entry.fill(value, size)
            self.peak_bytes = max(self.peak_bytes, self._count_used_bytes())
            self._condition.notify_all()
        try:
            self._evict_excess(entry)
        except BaseException as error:
            load.error = error
        self._settle([entry])
        with self._condition:
            load.is_over = True
            self._condition.notify_all()

    def _evict_excess(self, entry: Entry) -> None:
        """After a load that took more than its estimate, evict until the budget holds again."""
        with self._condition:
            if entry.bytes > self.limit:
                entry.drop_when_unpinned = True
                raise ModelError(
                    f"The model took {megabytes(entry.bytes)} and models may take {megabytes(self.limit)}. {LARGER}"
                )
            while self._count_used_bytes() > self.limit:
                idle = [other for other in self._entries.values() if other.state == READY and not other.pins]
                if not idle:
                    log.warning(
                        "models take %s of %s: an estimate was too low, and all are in use",
                        megabytes(self._count_used_bytes()),
                        megabytes(self.limit),
                    )
                    return
                self._free_unlocked(min(idle, key=lambda other: other.last_used))

    def _unpin(self, entries: Sequence[Entry]) -> None:
        with self._condition:
            now = self._clock()
            for entry in entries:
                entry.pins -= 1
                entry.last_used = now
        self._settle(entries)

    def _settle(self, entries: Sequence[Entry]) -> None:
        """Forget the entries that nobody uses and that are not to stay."""
        leaving = []
        with self._condition:
            for entry in entries:
                if entry.pins or self._entries.get(entry.want.key) is not entry:
                    continue
                if entry.state == RESERVED:
                    del self._entries[entry.want.key]
                elif entry.drop_when_unpinned and entry.state == READY:
                    entry.state = FREEING
                    leaving.append(entry)
            self._condition.notify_all()
        with contextlib.ExitStack() as stack:
            for entry in leaving:
                stack.callback(self._free, entry)

    def _free_unlocked(self, entry: Entry) -> None:
        """Free an entry from inside the lock, which is let go meanwhile."""
        entry.state = FREEING
        self._condition.release()
        try:
            self._free(entry)
        finally:
            self._condition.acquire()

    def _free(self, entry: Entry) -> None:
        """Drop an entry that is marked as being freed; its bytes count until this is done."""
        leaving, entry.object = entry.object, None
        try:
            if entry.want.free:
                entry.want.free(leaving)
            del leaving
        finally:
            with self._condition:
                del self._entries[entry.want.key]
                self._condition.notify_all()

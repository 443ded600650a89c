"""Old results go into the trash, the trash is emptied by age and by size, and a full folder takes no new jobs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from pipelines.core.errors import BusyError, StoreError
from studio.results.records import Freed
from studio.results.retention import Housekeeping
from studio.results.store import Store

__all__ = ["Housekeeper"]

_LOG = logging.getLogger("stepwise.store")
_SHARE_OF_QUOTA = 0.1


class Housekeeper:
    """Applies the rules to a store, now and then and whenever it is asked.

    Args:
        store: of the results.
        rules: what is kept.
        clock: seconds since 1970.
        removed: called with what was removed for good, where that was anything.
    """

    def __init__(
        self,
        store: Store,
        rules: Housekeeping | None = None,
        clock: Callable[[], float] = time.time,
        removed: Callable[[Freed], None] = lambda freed: None,
    ):
        self._store, self._rules = store, rules or Housekeeping()
        self._clock, self.removed = clock, removed
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def tidy(self) -> Freed:
        """Apply the rules; returns what was removed for good.

        Raises:
            StoreError: a file cannot be moved or removed.
        """
        rules, now = self._rules, self._clock()
        if rules.keep_seconds is not None:
            while old := self._store.list_oldest(trashed=False, before=now - rules.keep_seconds, limit=100):
                for record in old:
                    self._store.delete(record.id)
        results, size = self._store.empty_trash(older_than=rules.trash_seconds)
        for limit in self._trash_limits():
            more = self._shrink_trash(limit)
            results, size = results + more.results, size + more.bytes
        freed = Freed(results, size)
        if freed.results:
            self.removed(freed)
        return freed

    def _trash_limits(self) -> list[int]:
        """Bytes that the trash may hold: by its own limit, and by what the quota leaves beside the results."""
        rules, limits = self._rules, []
        if rules.trash_bytes is not None:
            limits.append(rules.trash_bytes)
        if rules.quota_bytes is not None:
            limits.append(max(0, rules.quota_bytes - self._store.count_bytes().results))
        return limits

    def _shrink_trash(self, limit: int) -> Freed:
        """Remove for good what was deleted first, until the rest fits."""
        total, size = 0, 0
        while (trash_bytes := self._store.count_bytes().trash) > limit:
            ids = []
            for record in self._store.list_oldest(trashed=True, limit=100):
                if trash_bytes <= limit:
                    break
                ids.append(record.id)
                trash_bytes -= record.size
            freed = self._store.remove(ids)
            if not freed.results:
                break
            total, size = total + freed.results, size + freed.bytes
        return Freed(total, size)

    def require_room(self) -> None:
        """Raise an error unless another job may store results.

        Raises:
            BusyError: the folder has reached its quota, and emptying the trash did not help.
        """
        quota = self._rules.quota_bytes
        if quota is None or sum(self._store.count_bytes()) < quota:
            return
        self.tidy()
        result_bytes = self._store.count_bytes().results
        if result_bytes >= quota:
            raise BusyError(
                f"The results take {result_bytes / 1e9:.1f} GB, and this studio keeps {quota / 1e9:.1f} GB. "
                "Delete some in the "
                "gallery."
            )

    def start(self, every: float = 600.0) -> None:
        """Tidy up now, and again and again in a thread of its own.

        Args:
            every: seconds between two times.
        """
        self._run_once()
        self._thread = threading.Thread(target=self._run, args=(every,), name="stepwise-housekeeping", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5)
            self._thread = None

    def _run(self, every: float) -> None:
        while not self._stopping.wait(every):
            self._run_once()

    def _run_once(self) -> None:
        try:
            self._store.reconcile()  # a picture whose row could not be written is found again
            self.tidy()
        except StoreError as error:  # a full disk, a folder that is gone: the next time may be better
            _LOG.warning("The results folder could not be tidied up: %s", error)

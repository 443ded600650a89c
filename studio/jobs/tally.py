"""Counts of what a studio has done since it was started, for those who watch over it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from studio.jobs.job import Job

__all__ = ["Tally"]


class Tally:
    """Counts jobs by their ends, network evaluations, device seconds and refused requests; safe to use from many
    threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: Counter[str] = Counter()
        self._refusals: Counter[int] = Counter()
        self._evaluations: float = 0
        self._seconds = 0.0

    def count_job(self, job: Job) -> None:
        """Count a job that is over."""
        view = job.view()
        evaluations = sum(cell.rows[-1].evaluations for cell in view.cells if cell.rows)
        with self._lock:
            self._jobs[view.status.value] += 1
            self._evaluations += evaluations
            self._seconds += view.seconds

    def count_refusal(self, status: int) -> None:
        """Count a request that was answered with this status, 400 to 499 or 503 or 507."""
        with self._lock:
            self._refusals[status] += 1

    def read(self) -> tuple[Mapping[str, int], Mapping[int, int], float, float]:
        """Return jobs by status, refusals by status, evaluations, and seconds."""
        with self._lock:
            return dict(self._jobs), dict(self._refusals), self._evaluations, self._seconds

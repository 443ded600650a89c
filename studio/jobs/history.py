"""The jobs that can still be looked at: so many, and of their pictures so many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from pipelines.core.errors import SettingsError
from studio.jobs.job import Job

__all__ = ["JobHistory"]


class JobHistory:
    """Holds jobs by their ids; safe to use from many threads.

    The oldest finished ones go when there are too many. Where their pictures take too many bytes, the oldest finished
    ones let those go, which the results folder has by then, and keep the rest. Where that is not enough, those of which
    the request has pictures go altogether.

    Args:
        capacity: jobs kept.
        most_bytes: of the pictures of all kept jobs; the latest finished one keeps its own whatever they take.
    """

    def __init__(self, capacity: int = 64, most_bytes: int = 512 * 2**20):
        self._capacity, self._most_bytes = capacity, most_bytes
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, job: Job) -> None:
        """Keep a job, from now on until it is old."""
        with self._lock:
            self._jobs[job.id] = job
        job.when_over(lambda job: self._make_room())  # then it has all its pictures
        self._make_room()

    def get(self, job_id: object, is_visible: Callable[[str], bool] = lambda owner: True) -> Job:
        """Return the job of this id, which comes from a browser or a program.

        Args:
            job_id: untrusted.
            is_visible: whether whoever asks may know of this owner's jobs.

        Raises:
            SettingsError: it is unknown, or so old that only its stored results remain.
        """
        with self._lock:
            job = self._jobs.get(job_id) if isinstance(job_id, str) else None
        if job is None or not is_visible(job.owner):
            raise SettingsError("This job is no longer in memory. Its finished pictures are in the output folder.")
        return job

    def list_finished(self, task: str, owner: str) -> list[Job]:
        """List an owner's finished jobs of a task that are still known, the oldest first."""
        with self._lock:
            return [job for job in self._jobs.values() if job.task == task and job.owner == owner and job.status.final]

    def get_latest(self) -> Job | None:
        """Return the job that was added last, if any is remembered."""
        with self._lock:
            return next(reversed(self._jobs.values()), None)

    def _make_room(self) -> None:
        with self._lock:
            finished = [job for job in self._jobs.values() if job.status.final]
            surplus = max(0, len(self._jobs) - self._capacity)
            for job in finished[:surplus]:
                del self._jobs[job.id]
            held_bytes = sum(job.picture_bytes + job.source_bytes for job in self._jobs.values())
        old_jobs = finished[surplus:-1]
        for job in old_jobs:
            if held_bytes <= self._most_bytes:
                return
            held_bytes -= job.let_pictures_go()
        for job in old_jobs:
            if held_bytes <= self._most_bytes:
                return
            if job.source_bytes and not job.picture_bytes:  # pictures that are left are stored nowhere
                held_bytes -= job.source_bytes
                with self._lock:
                    self._jobs.pop(job.id, None)

"""The jobs that can still be looked at: so many, and of their pictures so many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict

from pipelines.core.errors import SettingsError
from studio.jobs.job import Job

__all__ = ["JobHistory"]


class JobHistory:
    """Jobs by their ids; safe to use from many threads.

    The oldest finished ones go when there are too many. Where their pictures take too many bytes, the oldest finished
    ones let those go, which the results folder has by then, and keep the rest.

    Args:
        most: jobs kept.
        most_bytes: of the pictures of all kept jobs; the latest finished one keeps its own whatever they take.
    """

    def __init__(self, most: int = 64, most_bytes: int = 512 * 2**20):
        self._most, self._most_bytes = most, most_bytes
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, job: Job) -> None:
        """Keep a job, from now on until it is old."""
        with self._lock:
            self._jobs[job.id] = job

        def changed() -> None:
            if job.status.final:  # now it has all its pictures
                forget()
                self._make_room()

        forget = job.listen(changed)
        self._make_room()

    def get(self, job_id: object) -> Job:
        """The job of this id, which comes from a browser or a program.

        Raises:
            SettingsError: it is unknown, or so old that only its stored results remain.
        """
        with self._lock:
            job = self._jobs.get(job_id) if isinstance(job_id, str) else None
        if job is None:
            raise SettingsError("This job is no longer known here. Its finished pictures are in the output folder.")
        return job

    def latest(self) -> Job | None:
        """The job that was added last, if any is remembered."""
        with self._lock:
            return next(reversed(self._jobs.values()), None)

    def _make_room(self) -> None:
        with self._lock:
            finished = [job for job in self._jobs.values() if job.status.final]
            for job in finished[: max(0, len(self._jobs) - self._most)]:
                del self._jobs[job.id]
            kept, held = list(self._jobs.values()), sum(job.picture_bytes for job in self._jobs.values())
        for job in [one for one in kept if one.status.final][:-1]:
            if held <= self._most_bytes:
                return
            held -= job.let_pictures_go()

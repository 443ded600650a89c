"""The local engine: a first-in first-out queue and one worker thread that owns the device."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from pipelines.core.denoiser import Cancelled
from pipelines.core.errors import BusyError, StepwiseError
from pipelines.requests.limits import Limits
from studio.jobs.heap import give_back
from studio.jobs.job import Job, JobStatus
from studio.jobs.threads import let_the_worker_through

__all__ = ["LocalEngine"]

_LOG = logging.getLogger("stepwise.engine")
_SMOOTHING = 0.3


class LocalEngine:
    """Runs jobs one after another, so that two never share the device.

    Args:
        run: does a job's work in the worker thread; raises StepwiseError or Cancelled.
        limits: `max_queue` and `max_jobs_per_owner` are kept here.

    Attributes:
        forks: whether jobs run in processes of their own, which know only the models that were loaded at the start.
    """

    forks = False

    def __init__(self, run: Callable[[Job], None], limits: Limits):
        self._run, self._limits = run, limits
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._seconds: dict[str, float] = {}
        self._device = threading.Lock()
        let_the_worker_through()
        self._worker = threading.Thread(target=self._work, name="stepwise-worker", daemon=True)
        self._worker.start()

    def submit(self, job: Job) -> Job:
        """Queue a job.

        Raises:
            BusyError: the queue is full, or this owner has too many jobs in it.
        """
        job.queue_place = lambda: self.place(job)
        job.on_cancel = lambda: self._drop(job)
        with self._changed:
            self._admit(job)
            self._waiting.append(job)
            self._changed.notify()
        return job

    def place(self, job: Job) -> tuple[int, float | None]:
        """(jobs that run before this one, estimated seconds until it starts or None)."""
        with self._changed:
            ahead = list(self._waiting)
            if job not in ahead:
                return 0, None
            ahead = ahead[: ahead.index(job)]
            running = self._running
        estimates = [self._seconds.get(one.task) for one in ahead]
        if running is not None:
            whole = self._seconds.get(running.task)
            view = running.view()
            left = view.seconds_left
            estimates.append(left if left is not None else whole and max(0.0, whole - view.seconds))
        known = all(estimate is not None for estimate in estimates)
        return len(ahead) + (running is not None), sum(estimates) if known else None

    def if_idle(self, work: Callable[[], Any]) -> Any:
        """Something short on the device, in the caller's thread: its result, or None at once while a job runs or waits."""
        if self._waiting or not self._device.acquire(blocking=False):
            return None
        try:
            return work()
        finally:
            self._device.release()

    def close(self, timeout: float = 10.0) -> None:
        """Cancel everything and end the worker."""
        with self._changed:
            self._closed = True
            jobs = [*self._waiting, *([self._running] if self._running else [])]
            self._changed.notify()
        for job in jobs:
            job.cancel()
        self._worker.join(timeout)

    def _admit(self, job: Job) -> None:
        if self._closed:
            raise BusyError("The studio is shutting down. Start it again to go on.")
        if len(self._waiting) >= self._limits.max_queue:
            raise BusyError(f"The queue is full ({self._limits.max_queue} jobs wait). Try again in a minute.")
        own = [one for one in (*self._waiting, self._running) if one is not None and one.owner == job.owner]
        if job.owner and len(own) >= self._limits.max_jobs_per_owner:
            raise BusyError(f"You have {len(own)} jobs in the queue already. Wait for one to finish, or stop one.")

    def _drop(self, job: Job) -> None:
        with self._changed:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        job.set_status(JobStatus.CANCELLED)
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        with self._changed:
            waiting = list(self._waiting)
        for job in waiting:
            job.touch()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job = self._running = self._waiting.popleft()
            self._tell_waiting()
            began = time.monotonic()
            with self._device:
                self._perform(job)
            with self._changed:
                self._running = None
            give_back()
            if job.status is JobStatus.DONE:
                spent, known = time.monotonic() - began, self._seconds.get(job.task)
                self._seconds[job.task] = spent if known is None else known + _SMOOTHING * (spent - known)

    def _perform(self, job: Job) -> None:
        """Run one job to its final status; nothing that it raises reaches another job."""
        try:
            job.set_status(JobStatus.LOADING)
            self._run(job)
            job.set_status(JobStatus.DONE)
        except Cancelled:
            job.set_status(JobStatus.CANCELLED)
        except StepwiseError as error:
            _LOG.info("job %s failed: %s", job.id, error)
            job.set_status(JobStatus.FAILED, str(error))
        except (MemoryError, torch.OutOfMemoryError):
            _LOG.exception("job %s ran out of memory", job.id)
            job.set_status(
                JobStatus.FAILED, "There is not enough memory for this. Choose a smaller size, batch or model."
            )
        except Exception:
            _LOG.exception("job %s broke", job.id)
            job.set_status(
                JobStatus.FAILED, f"Something broke inside the studio; its log has the details under job {job.id}."
            )

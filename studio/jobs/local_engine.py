"""The local engine: a queue in which people take turns by the time they use, and one worker thread for each device."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import BusyError, StepwiseError
from pipelines.requests.limits import Limits
from studio.jobs.heap import give_back
from studio.jobs.job import Job, JobStatus, SteppedAside
from studio.jobs.speed import format_duration
from studio.jobs.threads import let_the_worker_through
from studio.jobs.turns import Turns

__all__ = ["LocalEngine"]

_LOG = logging.getLogger("stepwise.engine")
_SMOOTHING = 0.3


def _describe_time_limit(seconds: float) -> str:
    return (
        f"This ran for {format_duration(seconds)}, the longest that one run may take here, and was stopped. "
        "Choose fewer steps, fewer pictures or a smaller size."
    )


class LocalEngine:
    """Runs jobs one after another on each device, so that two never share one; see `Turns` for the order.

    Args:
        run: does a job's work in a worker thread; raises StepwiseError or Cancelled. `Job.device` says where.
        limits: `max_queue` and `max_jobs_per_owner` are kept here.
        on_leave: called with a job when it leaves the queue, because it starts or was stopped, but not when the engine
            closes.
        devices: names of the devices, a worker each; "" for the only one.
        suits: how well a free device suits a job: it runs on the one with the most, of equals on the first.

    Attributes:
        forks: whether jobs run in processes of their own, which know only the models that were loaded at the start.
    """

    forks = False

    def __init__(
        self,
        run: Callable[[Job], None],
        limits: Limits,
        on_leave: Callable[[Job], None] = lambda job: None,
        devices: Sequence[str] = ("",),
        suits: Callable[[Job, str], float] = lambda job, device: 0.0,
    ):
        self._run, self._limits, self._on_leave, self._suits = run, limits, on_leave, suits
        self._waiting: list[Job] = []
        self._turns = Turns()
        self._running: dict[str, Job | None] = dict.fromkeys(devices)
        self._condition = threading.Condition()
        self._is_closed = False
        self._seconds: dict[str, float] = {}
        self._locks = {device: threading.Lock() for device in devices}
        let_the_worker_through()
        self._workers = [
            threading.Thread(
                target=self._run_queue, args=(device,), name=f"stepwise-worker {device}".strip(), daemon=True
            )
            for device in devices
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, job: Job) -> Job:
        """Queue a job.

        Raises:
            BusyError: the queue is full, or this owner has too many jobs in it.
        """
        job.find_place, job.on_cancel = self.place, self._drop
        with self._condition:
            self._admit(job)
            self._turns.arrive(job.owner, job.owner in self._owners())
            self._waiting.append(job)
            self._place_jobs()
        return job

    def place(self, job: Job) -> tuple[int, float | None]:
        """(jobs that run before this one, estimated seconds until it starts or None)."""
        with self._condition:
            if job not in self._waiting:
                return 0, None
            ahead = self._turns.order(self._waiting, self._guess)
            ahead = ahead[: ahead.index(job)]
            running = list(self._running.values())
        left = [0.0 if one is None else self._seconds_left(one) for one in running]
        estimates = [self._seconds.get(one.task) for one in ahead]
        before = len(ahead) + sum(one is not None for one in running)
        if any(one is None for one in (*left, *estimates)):
            return before, None
        free_at = [one for one in left if one is not None]
        heapq.heapify(free_at)
        for estimate in estimates:
            heapq.heapreplace(free_at, free_at[0] + (estimate or 0.0))
        return before, free_at[0]

    def _seconds_left(self, running_job: Job) -> float | None:
        typical_seconds, view = self._seconds.get(running_job.task), running_job.view()
        if view.seconds_left is not None:
            return view.seconds_left
        return typical_seconds and max(0.0, typical_seconds - view.seconds)

    def run_if_idle(self, action: Callable[[], object], device: str | None = None) -> Any:
        """Run something short on a device, in the caller's thread; None at once while a job waits, or runs there.

        Args:
            action: what is run.
            device: where; None for the first.
        """
        lock = self._locks[next(iter(self._locks)) if device is None else device]
        if self._waiting or not lock.acquire(blocking=False):
            return None
        try:
            return action()
        finally:
            lock.release()

    @property
    def takes_jobs(self) -> bool:
        """Say whether it is open and its workers live."""
        return not self._is_closed and all(worker.is_alive() for worker in self._workers)

    def count_jobs(self) -> tuple[int, int]:
        """Count the jobs that wait, and those that run."""
        with self._condition:
            return len(self._waiting), len(self._running_jobs())

    def close(self, timeout: float = 10.0, explain: Callable[[Job], str] = lambda job: "") -> bool:
        """Cancel everything and end the workers; returns whether they have ended.

        Args:
            timeout: seconds to wait for them.
            explain: says something of a job that waits to whoever watches it.
        """
        with self._condition:
            self._is_closed = True
            waiting, running = list(self._waiting), self._running_jobs()
            self._waiting.clear()
            self._condition.notify_all()
        for job in running:
            job.cancel()
        for job in waiting:
            message = explain(job)
            job.cancel()
            job.set_status(JobStatus.CANCELLED, message)
        end = time.monotonic() + timeout
        for worker in self._workers:
            worker.join(max(0.0, end - time.monotonic()))
        have_ended = not any(worker.is_alive() for worker in self._workers)
        if not have_ended:
            for job in running:
                job.set_status(JobStatus.CANCELLED)  # whoever watches sees the end, though it still ends
        return have_ended

    def _running_jobs(self) -> list[Job]:
        return [job for job in self._running.values() if job is not None]

    def _guess(self, job: Job) -> float:
        """Seconds that a job may take: as those of its kind, else as any, else one."""
        seconds_by_task = self._seconds
        return seconds_by_task.get(job.task) or (
            sum(seconds_by_task.values()) / len(seconds_by_task) if seconds_by_task else 1.0
        )

    def _owners(self) -> set[str]:
        """Whose jobs wait or run."""
        return {one.owner for one in (*self._waiting, *self._running_jobs())}

    def _admit(self, job: Job) -> None:
        if self._is_closed:
            raise BusyError("The studio is shutting down. Start it again to go on.")
        if len(self._waiting) >= self._limits.max_queue:
            raise BusyError(f"The queue is full ({self._limits.max_queue} jobs wait). Try again in a minute.")
        own_jobs = [one for one in (*self._waiting, *self._running_jobs()) if one.owner == job.owner]
        if job.owner and len(own_jobs) >= self._limits.max_jobs_per_owner:
            raise BusyError(f"You have {len(own_jobs)} jobs in the queue already. Wait for one to finish, or stop one.")

    def _drop(self, job: Job) -> None:
        with self._condition:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        self._on_leave(job)
        job.set_status(JobStatus.CANCELLED)
        self._notify_waiting()

    def _notify_waiting(self) -> None:
        with self._condition:
            jobs = list(self._waiting)
        for job in jobs:
            job.touch()

    def _place_jobs(self) -> None:
        """Give free devices the jobs that are next, each to the one that suits it best; the lock is held."""
        while self._waiting and (free := [device for device, job in self._running.items() if job is None]):
            job = self._turns.choose(self._waiting)
            # With one device, or one left, nobody is asked.
            device = max(free, key=lambda name: self._suits(job, name)) if len(free) > 1 else free[0]
            self._waiting.remove(job)
            self._running[device], job.device = job, device
        self._condition.notify_all()

    def _run_queue(self, device: str) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._running[device] is not None or self._is_closed)
                job = self._running[device]
            if job is None:
                return
            self._on_leave(job)
            self._notify_waiting()
            began = time.monotonic()
            with self._locks[device]:
                has_stepped_aside = self._run_job(job)
            seconds = time.monotonic() - began
            with self._condition:
                self._running[device] = None
                self._turns.charge(job.owner, seconds)
                if has_stepped_aside and not self._is_closed:
                    self._waiting.append(job)
                self._turns.forget(self._owners())
                self._place_jobs()
            if has_stepped_aside:
                self._notify_waiting()
                if job.cancelled() or self._is_closed:  # it was asked to stop while it changed places
                    self._drop(job)
                    job.set_status(JobStatus.CANCELLED)
                continue
            give_back()
            if job.status is JobStatus.DONE:
                average = self._seconds.get(job.task)
                self._seconds[job.task] = seconds if average is None else average + _SMOOTHING * (seconds - average)

    def _run_job(self, job: Job) -> bool:
        """Run one job to its final status, or until it steps aside; nothing that it raises reaches another job.

        Returns:
            Whether it has stepped aside.
        """
        try:
            job.limit_time(self._limits.max_seconds)
            job.set_status(JobStatus.LOADING)
            self._run(job)
            job.set_status(JobStatus.DONE)
        except SteppedAside:
            job.set_status(JobStatus.QUEUED)
            return True
        except Cancelled:
            if job.is_out_of_time:
                job.set_status(JobStatus.FAILED, _describe_time_limit(self._limits.max_seconds))
            else:
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
        return False

"""Jobs: a request, what has happened to it so far, and a way to stop it.

A job lives apart from the page that asked for it. Whoever knows its id can read it again from any point:
every step's numbers are kept, of the previews the latest of each cell, and after the run the whole
trajectory. Readers wait on `Job.wait`; a slow reader sees fewer previews and never delays the worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from studio.jobs.view import Cell, Frame, JobStatus, Population, SearchedPicture, StepRow, View, count_picture_bytes

__all__ = [
    "Cell",
    "Frame",
    "Job",
    "JobStatus",
    "Population",
    "SearchedPicture",
    "StepRow",
    "SteppedAside",
    "View",
]


class SteppedAside(Exception):
    """Raised by a task without an end of its own to let the jobs that wait run; it is queued again and goes on."""


class Job:
    """Carries one request through the queue.

    Args:
        task: key of the task table that runs it.
        request: the validated request.
        owner: opaque id of whoever asked, for fairness limits; "" for programs.
        clock: for tests.
        typed: the prompts by their field as they were before wildcards were drawn, where any were.
        id: of a job that an earlier start of the studio has queued; "" for a new one.
    """

    def __init__(
        self,
        task: str,
        request: Any,
        owner: str = "",
        clock: Callable[[], float] = time.monotonic,
        typed: Mapping[str, str] | None = None,
        id: str = "",
    ):
        self.id = id or secrets.token_urlsafe(12)
        self.task, self.request, self.owner = task, request, owner
        self.typed: Mapping[str, str] = typed or {}
        self.device = ""
        """Where it runs; the engine says it as the job starts."""
        self.created = time.time()
        self._clock = clock
        self._condition = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._end_callbacks: list[Callable[[Job], None]] = []
        self._cancel = threading.Event()
        self._deadline = math.inf
        self._version = 0
        self._status = JobStatus.QUEUED
        self._message = ""
        self._cells: list[Cell] = []
        self._outcome: Mapping[str, Any] = {}
        self._start_time: float | None = None
        self._running_since: float | None = None
        self._ran = 0.0
        self._end_time: float | None = None
        self.find_place: Callable[[Job], tuple[int, float | None]] = _find_no_place
        """Where it stands in the queue; the engine says it. A function of the job: one that held it would keep it and
        its pictures in memory until Python looks for cycles, which it does ever less often the more it holds."""
        self.on_cancel: Callable[[Job], None] = _do_nothing

    # What readers use.

    def cancel(self) -> None:
        """Ask the job to stop: a queued one never starts, a running one ends at its next evaluation."""
        self._cancel.set()
        self.on_cancel(self)
        self._touch()

    def cancelled(self) -> bool:
        """Say whether the job is to stop: it was asked to, or its time is over."""
        return self._cancel.is_set() or self._clock() > self._deadline

    @property
    def is_out_of_time(self) -> bool:
        """Say whether the job ran as long as it may, and nobody asked it to stop."""
        return not self._cancel.is_set() and self._clock() > self._deadline

    def limit_time(self, seconds: float) -> None:
        """Let the job run so many seconds from now."""
        self._deadline = self._clock() + seconds

    @property
    def status(self) -> JobStatus:
        return self._status

    def view(self) -> View:
        """Return the job as it stands now."""
        position, wait = self.find_place(self) if self._status is JobStatus.QUEUED else (0, None)
        with self._condition:
            cells = tuple(
                dataclasses.replace(cell, rows=list(cell.rows), frames=list(cell.frames)) for cell in self._cells
            )
            end = self._end_time if self._end_time is not None else self._clock()
            seconds = 0.0 if self._start_time is None else end - self._start_time
            running_seconds = self._ran + (0.0 if self._running_since is None else end - self._running_since)
            return View(
                self._version,
                self._status,
                self._message,
                position,
                wait,
                cells,
                seconds,
                running_seconds,
                self._outcome,
            )

    def wait(self, version: int = -1, timeout: float | None = None) -> View:
        """Wait for the first view newer than `version`; returns the present one after `timeout` seconds."""
        with self._condition:
            self._condition.wait_for(lambda: self._version > version, timeout)
        return self.view()

    @property
    def picture_bytes(self) -> int:
        """Return the bytes that the pictures of its steps and its finished ones take."""
        with self._condition:
            cells = list(self._cells)
        return sum(count_picture_bytes(cell) for cell in cells)

    @property
    def source_bytes(self) -> int:
        """Return the bytes of the pictures that the request was given: the edited one, its mask, a first frame."""
        pixels = (getattr(value, "pixels", None) for value in getattr(self.request, "__dict__", {}).values())
        return sum(one.nbytes for one in pixels if isinstance(one, np.ndarray))

    def let_pictures_go(self) -> int:
        """Drop the pictures of a finished job that are in the store, and those of its steps; returns their bytes.

        Numbers and results stay, so it can still be read. A failed job's finished pictures are nowhere else: they stay.
        """
        before = self.picture_bytes
        cleared: dict[str, Any] = {"frames": [], "population": None}
        if self._status is not JobStatus.FAILED:
            cleared["images"] = None
        with self._condition:
            self._cells = [dataclasses.replace(cell, **cleared) for cell in self._cells]
        self._touch()
        return before - self.picture_bytes

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called after every change, in the thread that makes it; returns what ends that."""
        with self._condition:
            self._listeners.append(callback)

        def forget() -> None:
            with self._condition, contextlib.suppress(ValueError):
                self._listeners.remove(callback)

        return forget

    def when_over(self, callback: Callable[[Job], None]) -> None:
        """Have `callback` called once with the job when it is over, in the thread that ends it; at once if it already
        is."""
        with self._condition:
            is_over = self._status.final
            if not is_over:
                self._end_callbacks.append(callback)
        if is_over:
            callback(self)

    # What the engine and the task use.

    def touch(self) -> None:
        """Wake the readers, as when the queue has moved."""
        self._touch()

    def set_status(self, status: JobStatus, message: str = "") -> None:
        """Enter a status; a final one is never left."""
        with self._condition:
            if self._status.final:
                return
            self._status, self._message, time = status, message, self._clock()
            if status in (JobStatus.LOADING, JobStatus.RUNNING) and self._start_time is None:
                self._start_time = time
            self._ran += 0.0 if self._running_since is None else time - self._running_since
            self._running_since = time if status is JobStatus.RUNNING else None
            callbacks: list[Callable[[Job], None]] = []
            if status.final:
                self._end_time = time
                callbacks, self._end_callbacks = self._end_callbacks, []
        self._touch()
        for callback in callbacks:
            callback(self)

    def set_cells(self, cells: list[Cell]) -> None:
        """Announce the trajectories before they start."""
        with self._condition:
            self._cells = cells
        self._touch()

    def add_step(self, cell: int, row: StepRow, frame: Frame) -> None:
        """Add one finished step of one cell."""
        with self._condition:
            self._cells[cell].rows.append(row)
            self._cells[cell].frames.append(frame)
        self._touch()

    def update_cell(self, cell: int, **changes: Any) -> None:
        """Set attributes of a cell: images, results, figures, note."""
        with self._condition:
            self._cells[cell] = dataclasses.replace(self._cells[cell], **changes)
        self._touch()

    def set_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Set the job's own final record."""
        with self._condition:
            self._outcome = outcome
        self._touch()

    def _touch(self) -> None:
        with self._condition:
            self._version += 1
            self._condition.notify_all()
            listeners = list(self._listeners)
        for callback in listeners:
            callback()


def _find_no_place(job: Job) -> tuple[int, float | None]:
    return 0, None


def _do_nothing(job: Job) -> None:
    pass

"""Jobs: a request, what has happened to it so far, and a way to stop it.

A job lives apart from the page that asked for it. Whoever knows its id can read it again from any point:
every step's numbers are kept, of the previews the latest of each cell, and after the run the whole
trajectory. Readers wait on `Job.wait`; a slow reader sees fewer previews and never delays the worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np

__all__ = ["Cell", "Frame", "Job", "JobStatus", "StepRow", "View"]


class JobStatus(str, Enum):
    """Where a job stands; the last three are final."""

    QUEUED = "queued"
    LOADING = "loading"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        return self in (JobStatus.DONE, JobStatus.CANCELLED, JobStatus.FAILED)


@dataclasses.dataclass(frozen=True)
class StepRow:
    """One step's numbers, kept for every step.

    Attributes:
        index: from 0.
        sigma: noise level after the step as sigma / alpha.
        timestep: network time before the step.
        evaluations: network evaluations per sample so far.
        seconds: the run's own time so far.
    """

    index: int
    sigma: float
    timestep: float
    evaluations: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Frame:
    """Small pictures of one step: (B, h, w, 3) uint8 arrays of the noisy latents and of the estimate of x0.

    Attributes:
        noisy, denoised: the pictures.
        latents: (2, B, C, h, w), float16, what they were painted from; None where that would be too much to keep.
    """

    noisy: np.ndarray
    denoised: np.ndarray
    latents: np.ndarray | None = None


@dataclasses.dataclass
class Cell:
    """One trajectory of a job: text to image has one cell, a comparison several.

    Attributes:
        label: what tells this cell from the others; empty for a single one.
        num_steps: steps of its run.
        rows: the finished steps' numbers.
        frames: the finished steps' small pictures.
        images: finished pictures (B, H, W, 3) uint8; None before the end.
        results: ids in the store of the finished pictures.
        figures: name to number or None, e.g. {"psnr": 31.2, "ssim": 0.97}.
        note: one sentence for the person about this cell.
        clip: the file of a finished clip for as long as the store does not have it.
    """

    label: str = ""
    num_steps: int = 0
    rows: list[StepRow] = dataclasses.field(default_factory=list)
    frames: list[Frame] = dataclasses.field(default_factory=list)
    images: np.ndarray | None = None
    results: tuple[str, ...] = ()
    figures: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    note: str = ""
    clip: bytes = b""


@dataclasses.dataclass(frozen=True)
class View:
    """A consistent reading of a job at one moment.

    Attributes:
        version: grows with every change; pass it to `Job.wait` to wait for a newer one.
        status: see JobStatus.
        message: one sentence: what is being loaded, or why the job failed.
        position: jobs ahead in the queue; 0 when running or next.
        wait_seconds: estimated time until the job starts; None when unknown.
        cells: copies; their arrays are shared and never changed.
        seconds: since the job left the queue.
        running: those of them that it ran, without the loading of models.
        outcome: the job's own final record (a comparison's table), set at the end.
    """

    version: int
    status: JobStatus
    message: str
    position: int
    wait_seconds: float | None
    cells: tuple[Cell, ...]
    seconds: float
    running: float
    outcome: Mapping[str, Any]

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the steps done so far and the time that they ran; None before the first."""
        done = sum(len(cell.rows) for cell in self.cells)
        total = sum(cell.num_steps for cell in self.cells)
        return self.running / done * (total - done) if done and total else None


class Job:
    """One request on its way through the queue.

    Args:
        task: key of the task table that runs it.
        request: the validated request.
        owner: opaque id of whoever asked, for fairness limits; "" for programs.
        clock: for tests.
    """

    def __init__(self, task: str, request: Any, owner: str = "", clock: Callable[[], float] = time.monotonic):
        self.id = secrets.token_urlsafe(12)
        self.task, self.request, self.owner = task, request, owner
        self.created = time.time()
        self._clock = clock
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._cancel = threading.Event()
        self._version = 0
        self._status = JobStatus.QUEUED
        self._message = ""
        self._cells: list[Cell] = []
        self._outcome: Mapping[str, Any] = {}
        self._started: float | None = None
        self._running_since: float | None = None
        self._ran = 0.0
        self._ended: float | None = None
        self.queue_place: Callable[[], tuple[int, float | None]] = lambda: (0, None)
        self.on_cancel: Callable[[], None] = lambda: None

    # What readers use.

    def cancel(self) -> None:
        """Ask the job to stop: a queued one never starts, a running one ends at its next evaluation."""
        self._cancel.set()
        self.on_cancel()
        self._touch()

    def cancelled(self) -> bool:
        """Whether the job was asked to stop."""
        return self._cancel.is_set()

    @property
    def status(self) -> JobStatus:
        return self._status

    def view(self) -> View:
        """The job as it stands now."""
        position, wait = self.queue_place() if self._status is JobStatus.QUEUED else (0, None)
        with self._changed:
            cells = tuple(
                dataclasses.replace(cell, rows=list(cell.rows), frames=list(cell.frames)) for cell in self._cells
            )
            end = self._ended if self._ended is not None else self._clock()
            seconds = 0.0 if self._started is None else end - self._started
            running = self._ran + (0.0 if self._running_since is None else end - self._running_since)
            return View(
                self._version, self._status, self._message, position, wait, cells, seconds, running, self._outcome
            )

    def wait(self, version: int = -1, timeout: float | None = None) -> View:
        """The first view newer than `version`, or the present one after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._version > version, timeout)
        return self.view()

    @property
    def picture_bytes(self) -> int:
        """Memory that the pictures of its steps and its finished ones take."""
        with self._changed:
            cells = list(self._cells)
        return sum(_bytes_of(cell) for cell in cells)

    def let_pictures_go(self) -> int:
        """Drop the pictures of a finished job that are in the store, and those of its steps; returns their bytes.

        Numbers and results stay, so it can still be read. A failed job's finished pictures are nowhere else: they stay.
        """
        before = self.picture_bytes
        kept = {"frames": []} if self._status is JobStatus.FAILED else {"frames": [], "images": None}
        with self._changed:
            self._cells = [dataclasses.replace(cell, **kept) for cell in self._cells]
        self._touch()
        return before - self.picture_bytes

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Have `changed` called after every change, in the thread that makes it; returns what ends that."""
        with self._changed:
            self._listeners.append(changed)

        def forget() -> None:
            with self._changed, contextlib.suppress(ValueError):
                self._listeners.remove(changed)

        return forget

    # What the engine and the task use.

    def touch(self) -> None:
        """Wake the readers, as when the queue has moved."""
        self._touch()

    def set_status(self, status: JobStatus, message: str = "") -> None:
        """Enter a status; a final one is never left."""
        with self._changed:
            if self._status.final:
                return
            self._status, self._message, now = status, message, self._clock()
            if status in (JobStatus.LOADING, JobStatus.RUNNING) and self._started is None:
                self._started = now
            self._ran += 0.0 if self._running_since is None else now - self._running_since
            self._running_since = now if status is JobStatus.RUNNING else None
            if status.final:
                self._ended = now
        self._touch()

    def set_cells(self, cells: list[Cell]) -> None:
        """Announce the trajectories before they start."""
        with self._changed:
            self._cells = cells
        self._touch()

    def add_step(self, cell: int, row: StepRow, frame: Frame) -> None:
        """One finished step of one cell."""
        with self._changed:
            self._cells[cell].rows.append(row)
            self._cells[cell].frames.append(frame)
        self._touch()

    def update_cell(self, cell: int, **changes: Any) -> None:
        """Set attributes of a cell: images, results, figures, note."""
        with self._changed:
            self._cells[cell] = dataclasses.replace(self._cells[cell], **changes)
        self._touch()

    def set_outcome(self, outcome: Mapping[str, Any]) -> None:
        """The job's own final record."""
        with self._changed:
            self._outcome = outcome
        self._touch()

    def _touch(self) -> None:
        with self._changed:
            self._version += 1
            self._changed.notify_all()
            listeners = list(self._listeners)
        for changed in listeners:
            changed()


def _bytes_of(cell: Cell) -> int:
    arrays = [cell.images, *(value for frame in list(cell.frames) for value in vars(frame).values())]
    return len(cell.clip) + sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

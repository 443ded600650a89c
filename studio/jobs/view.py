"""What a job shows at one moment: its status, and of each trajectory the steps' numbers and pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

__all__ = [
    "SHARP_STEPS",
    "Cell",
    "Frame",
    "JobStatus",
    "Population",
    "SearchedPicture",
    "StepRow",
    "View",
    "count_picture_bytes",
]


class JobStatus(str, Enum):
    """Says where a job stands; the last three are final."""

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
    """Holds one step's numbers, kept for every step.

    Attributes:
        index: from 0.
        sigma: noise level after the step as sigma / alpha.
        timestep: network time before the step.
        evaluations: network evaluations per sample so far; one that a cache shortened counts as the share that was run.
        seconds: the run's own time so far.
        skipped: share of the step's work in the network that a cache left out, 0 to 1.
    """

    index: int
    sigma: float
    timestep: float
    evaluations: float
    seconds: float
    skipped: float = 0.0


@dataclasses.dataclass(frozen=True)
class Frame:
    """Holds small pictures of one step: (B, h, w, 3) uint8 arrays of the noisy latents and of the estimate of x0.

    Attributes:
        noisy, denoised: the pictures.
        latents: (2, B, C, h, w), float16, what they were painted from; None where that would be too much to keep.
        sharp: whether the estimate's went through a tiny decoder, where other steps' may not.
    """

    noisy: np.ndarray
    denoised: np.ndarray
    latents: np.ndarray | None = None
    sharp: bool = False


@dataclasses.dataclass(frozen=True)
class SearchedPicture:
    """Holds a picture that a search has judged.

    Attributes:
        name: what tells it from the others.
        image: (H, W, 3), uint8, as it may be shown.
        reward: the larger the better.
        finished: whether it is a finished picture, and not an estimate part of the way.
        seed: that makes it without the search; None where no seed alone does.
    """

    name: str
    image: np.ndarray
    reward: float
    finished: bool
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Population:
    """Says how far a search is.

    Attributes:
        best: of all so far.
        latest: judged last, in order, a few.
        judged: pictures so far.
        spent, budget: evaluations.
        curve: (evaluations, best reward) each time that there was a better one.
    """

    best: SearchedPicture
    latest: tuple[SearchedPicture, ...]
    judged: int
    spent: float
    budget: int
    curve: tuple[tuple[float, float], ...]


SHARP_STEPS = 5
"""Steps for which a sharp preview stands, unless a newer one comes."""


@dataclasses.dataclass
class Cell:
    """Describes one trajectory of a job: text to image has one cell, a comparison several.

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
        population: of a search; None of a run without one.
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
    population: Population | None = None

    @property
    def preview(self) -> np.ndarray:
        """The picture (B, h, w, 3) that stands for the run now, of its frames: the last sharp estimate, unless it is
        older than that of four steps before, and else the last one."""
        recent = self.frames[-SHARP_STEPS:]
        return next((frame for frame in reversed(recent) if frame.sharp), recent[-1]).denoised


@dataclasses.dataclass(frozen=True)
class View:
    """Describes a job consistently at one moment.

    Attributes:
        version: grows with every change; pass it to `Job.wait` to wait for a newer one.
        status: see JobStatus.
        message: one sentence: what is being loaded, or why the job failed.
        position: jobs ahead in the queue; 0 when running or next.
        wait_seconds: estimated time until the job starts; None when unknown.
        cells: copies; their arrays are shared and never changed.
        seconds: since the job left the queue.
        running_seconds: those of them that it ran, without the loading of models.
        outcome: the job's own final record (a comparison's table), set at the end.
    """

    version: int
    status: JobStatus
    message: str
    position: int
    wait_seconds: float | None
    cells: tuple[Cell, ...]
    seconds: float
    running_seconds: float
    outcome: Mapping[str, Any]

    @property
    def population(self) -> Population | None:
        """Return how far the search of a single cell is; None where nothing is searched for."""
        return self.cells[0].population if len(self.cells) == 1 else None

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the steps done so far and the time that they ran; None before the first."""
        steps_done: float = sum(len(cell.rows) for cell in self.cells)
        total = sum(cell.num_steps for cell in self.cells)
        if self.population is not None:
            steps_done, total = self.population.spent, self.population.budget
        return self.running_seconds / steps_done * (total - steps_done) if steps_done and total else None


def count_picture_bytes(cell: Cell) -> int:
    """Return the bytes of a cell's pictures, those of its steps and the finished ones, and of its clip."""
    arrays = [cell.images, *(value for frame in list(cell.frames) for value in vars(frame).values())]
    if cell.population is not None:
        arrays += [picture.image for picture in (cell.population.best, *cell.population.latest)]
    return len(cell.clip) + sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

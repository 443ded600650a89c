"""Runs that were finished lately, so that an equal request costs no evaluation, and one that differs only in the
picture's decoding costs that alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.core.byte_cache import ByteCache
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.requests.passes import FirstPass
from studio.jobs.job import Cell, Frame, Job, StepRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipelines.families.base import Family

__all__ = ["FROM_CACHE", "FinishedRun", "FinishedRuns"]

FROM_CACHE = "from_cache"
"""Name of the figure that says that a run was not computed anew."""

_NOTE = (
    "From the cache: you ran the same request on the same files before ({} network evaluations). Nothing was evaluated."
)
_FIRST_PASS_NOTE = "The first pass is from the cache: you ran it on the same files before ({} network evaluations)."


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """Describes how a run ended, and what its steps showed.

    Attributes:
        latents: the last, (B, C, h, w) float32, on the CPU.
        evaluations: that it took for each sample.
        rows, frames: of its steps.
        note: of its sampler.
        noise: where it stopped drawing, so that a second pass can go on; None where none can.
    """

    latents: torch.Tensor
    evaluations: float
    rows: tuple[StepRow, ...]
    frames: tuple[Frame, ...]
    note: str = ""
    noise: NoiseSource | None = None

    @classmethod
    def of_cell(cls, cell: Cell, latents: torch.Tensor, noise: NoiseSource | None = None) -> FinishedRun:
        """Describe a run whose steps are all recorded in a cell."""
        copied = latents.detach().to("cpu", torch.float32, copy=True)
        return cls(copied, cell.rows[-1].evaluations, tuple(cell.rows), tuple(cell.frames), cell.note, noise)

    @classmethod
    def of_first_pass(cls, cell: Cell, first: FirstPass) -> FinishedRun:
        """Describe the first pass of a run whose first steps are recorded in a cell."""
        own = dataclasses.replace(
            cell, rows=cell.rows[: first.num_steps], frames=cell.frames[: first.num_steps], note=first.note
        )
        return cls.of_cell(own, first.latents, first.noise.clone())

    def as_first_pass(self, device: torch.device) -> FirstPass | None:
        """Return what a second pass goes on from; None where the run does not say it."""
        if self.noise is None:
            return None
        return FirstPass(self.latents.to(device), self.noise, len(self.rows), note=self.note)

    @property
    def bytes(self) -> int:
        """Memory that it takes; frames are shared with the job that made them while that is remembered."""
        arrays = [array for frame in self.frames for array in (frame.noisy, frame.denoised, frame.latents)]
        return self.latents.nbytes + sum(array.nbytes for array in arrays if array is not None)

    def replay(self, job: Job, cell: int, more: int = 0) -> None:
        """Show the steps again, without evaluations and without time, and say so in the cell's note.

        Args:
            job: that they are shown in.
            cell: of the job.
            more: steps of a second pass, which follow.
        """
        job.update_cell(cell, num_steps=len(self.rows) + more)
        for row, frame in zip(self.rows, self.frames, strict=True):
            job.add_step(cell, dataclasses.replace(row, evaluations=0, seconds=0.0), frame)
        # The sampler's note on a first pass comes again with the steps that follow.
        spent = f"{round(self.evaluations, 1):g}"
        note = _FIRST_PASS_NOTE.format(spent) if more else f"{_NOTE.format(spent)} {self.note}"
        job.update_cell(cell, note=note.strip())


class FinishedRuns:
    """Keeps finished runs, their pictures and encoded texts, the last used first, within one budget.

    Each owner has what that owner made: nobody can tell from a run's speed or note what somebody else asked for.

    Args:
        budget: bytes of all together; 0 keeps none.
    """

    def __init__(self, budget: int):
        self._values = ByteCache[object](budget)

    def find_run(self, owner: str, identity: Hashable | None) -> FinishedRun | None:
        """Find an owner's finished run."""
        value = None if identity is None else self._values.get((owner, "run", identity))
        return value if isinstance(value, FinishedRun) else None

    def add_run(self, owner: str, identity: Hashable | None, run: FinishedRun) -> None:
        """Keep a run, unless nothing names it."""
        if identity is not None:
            self._values.put((owner, "run", identity), run, run.bytes)

    def find_pictures(self, owner: str, identity: Hashable | None) -> tuple[np.ndarray, str] | None:
        """Find the pictures (B, H, W, 3), uint8, of a run with a decoder, and the note of their decoding."""
        value = None if identity is None else self._values.get((owner, "pictures", identity))
        return value if isinstance(value, tuple) else None

    def add_pictures(self, owner: str, identity: Hashable | None, pictures: np.ndarray, note: str) -> None:
        """Keep decoded pictures, unless nothing names them."""
        if identity is not None:
            self._values.put((owner, "pictures", identity), (pictures, note), pictures.nbytes)

    def find_texts(self, owner: str, identity: Hashable | None, family: Family) -> dict[str, Conditioning] | None:
        """Find encoded texts, on the model's device."""
        value = None if identity is None else self._values.get((owner, identity))
        return _move(value, family.device) if isinstance(value, dict) else None

    def add_texts(self, owner: str, identity: Hashable | None, encoded: Mapping[str, Conditioning]) -> None:
        """Keep encoded texts, unless nothing names them."""
        if identity is not None:
            tensors = [tensor for one in encoded.values() for tensor in one.tensors.values()]
            self._values.put((owner, identity), _move(encoded, torch.device("cpu")), sum(one.nbytes for one in tensors))


def _move(encoded: Mapping[str, Conditioning], device: torch.device) -> dict[str, Conditioning]:
    return {
        name: Conditioning({key: tensor.to(device) for key, tensor in conditioning.tensors.items()})
        for name, conditioning in encoded.items()
    }

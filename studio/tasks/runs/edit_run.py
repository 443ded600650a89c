"""One edit on a loaded model: inversion, reconstruction, edit, and their figures, written to the cells of a job."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.core.errors import ModelMissingError, StepwiseError
from pipelines.core.loop import denoise
from pipelines.core.types import Step, Trajectory
from pipelines.families.base import Family
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.inversions.trajectories import TrajectoryCache
from pipelines.metrics.classifier import Classifier, load_classifier
from pipelines.metrics.lpips import LEAST_SIDE, Lpips, load_lpips
from pipelines.metrics.pictures import WINDOW, psnr, ssim
from pipelines.requests.encoding import decode
from pipelines.requests.step_pictures import StepPictures, with_pictures
from pipelines.workflows.edit.canvas import Canvas
from pipelines.workflows.edit.request import EditRequest
from pipelines.workflows.edit.runs import Editing
from studio.jobs.job import Cell, Job
from studio.tasks.recording import KEPT_BYTES, note_decoding, record

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["EditRun", "Places"]

SHIPPED = "emoji"
"""The model whose pictures the shipped classifier reads."""

INVERSION, RECONSTRUCTION, EDIT = "Inversion", "Reconstruction", "Edit"


@dataclasses.dataclass(frozen=True)
class Places:
    """Says which cells of a job show an edit; an inversion and a reconstruction of None are not shown.

    Attributes:
        edit, inversion, reconstruction: indices of cells.
        counts_inversion: whether the edit's own evaluations and seconds include the inversion's.
    """

    edit: int
    inversion: int | None = None
    reconstruction: int | None = None
    counts_inversion: bool = False


class EditRun:
    """Runs one edit in the worker thread: its cells, pictures and figures.

    Args:
        request: settled on its model.
        job: receives what happens.
        context: the studio.
        family: the model.
        canvas: the picture and mask as the model takes them.
        editing: the edit on its model.
        places: cells of the job; None for those of an edit alone, which are then set.
        report: called with the edit and its outcome; by default the job's outcome.
    """

    def __init__(
        self,
        request: EditRequest,
        job: Job,
        context: TaskContext,
        family: Family,
        canvas: Canvas,
        editing: Editing,
        places: Places | None = None,
        report: Callable[[dict[str, Any]], None] | None = None,
    ):
        self.request, self.job, self.context, self.canvas, self.editing = request, job, context, canvas, editing
        self.family = family
        self.lpips = _load_lpips(context)
        self.report = report or job.set_outcome
        self.shares_job = places is not None
        self.places = places or _set_cells(job, editing)
        if notes := " ".join(canvas.notes):
            job.update_cell(self.places.edit, note=notes)

    def run(self, cache: TrajectoryCache) -> None:
        """Invert where the edit needs it, edit, measure and store.

        Raises:
            Cancelled: the person stopped it.
        """
        if self.editing.edit.inverts:
            self._invert_and_edit(cache)
        elif len(self.editing.levels) < 2:
            what = "the object is moved and nothing drawn" if self.canvas.placed else "this is the picture itself"
            note = f"{' '.join(self.canvas.notes)} At this strength no step is run: {what}.".strip()
            self.job.update_cell(self.places.edit, note=note)
            self._finish(self.canvas.pixels, None)
        else:
            self._edit_at_once()

    def _edit_at_once(self) -> None:
        row = TARGET if self.editing.edit.paired else SOURCE
        with self.editing.run() as run:
            for step, pictures in self._iter_with_pictures(denoise(run)):
                record(self.job, self.places.edit, step, pictures.rows(row, row + 1))
        picture = decode(self.family, step.latents[row : row + 1])[0]
        note_decoding(self.job, self.places.edit, self.family)
        self._finish(picture, step)

    def _invert(self, cache: TrajectoryCache) -> Trajectory:
        key = (self.job.owner, self.editing.trajectory_key)  # what one person ran is never used for another
        trajectory, place = cache.get(key), self.places.inversion
        if trajectory is not None:
            if place is not None:
                self.job.update_cell(place, note="Reused from an earlier edit of this picture.")
                for step, pictures in self._iter_with_pictures(trajectory.steps):
                    record(self.job, place, step, pictures.rows(0, 1))
            return trajectory
        run = self.editing.inversion_run()
        if place is None:
            trajectory = Trajectory(run.latents, tuple(denoise(run)))
        else:
            steps = []
            for step, pictures in self._iter_with_pictures(denoise(run)):
                record(self.job, place, step, pictures.rows(0, 1))
                steps.append(step)
            trajectory = Trajectory(run.latents, tuple(steps))
        cache.put(key, trajectory)
        return trajectory

    def _invert_and_edit(self, cache: TrajectoryCache) -> None:
        trajectory, places = self._invert(cache), self.places
        with self.editing.run(trajectory) as run:
            for step, pictures in self._iter_with_pictures(denoise(run)):
                if places.reconstruction is not None:
                    record(self.job, places.reconstruction, step, pictures.rows(SOURCE, SOURCE + 1))
                step = self._count(step, trajectory)
                record(self.job, places.edit, step, pictures.rows(TARGET, TARGET + 1))
        latents = self.editing.inversion.visible(step.latents)
        picture = decode(self.family, latents[TARGET : TARGET + 1])[0]
        note_decoding(self.job, places.edit, self.family)
        self._finish(picture, step)
        # Last, for the edit waits for none of it.
        if places.reconstruction is not None:
            self._report_reconstruction(latents[SOURCE : SOURCE + 1], places.reconstruction)

    def _count(self, step: Step, trajectory: Trajectory) -> Step:
        """The step with the inversion's work added, where that counts as the edit's, also of one that was reused."""
        if not self.places.counts_inversion:
            return step
        up = trajectory.steps[-1]
        evaluations, elapsed = step.evaluations + up.evaluations, step.elapsed
        return dataclasses.replace(step, evaluations=evaluations, elapsed=lambda: up.seconds + elapsed())

    def _report_reconstruction(self, latents: torch.Tensor, place: int) -> None:
        reference = self.canvas.reference
        inverted = self.canvas.pixels if reference is None else reference
        best = picture = self.editing.inverted.decode(self.family)
        if not torch.equal(latents, self.editing.inverted_latents):
            picture = decode(self.family, latents)[0]
        figures = {
            **self._compare_pictures(picture, inverted),
            "autoencoder_psnr": _drop_infinite(psnr(best, inverted)),
        }
        self.job.update_cell(place, images=self._release(picture, place), figures=figures)

    def _iter_with_pictures(self, steps: Iterable[Step]) -> Iterator[tuple[Step, StepPictures]]:
        """Steps with what they show of the latents that the inversion runs on, row by row."""
        visible = self.editing.inversion.visible
        numbered = ((0, step) for step in steps)
        for _, step, pictures in with_pictures(numbered, [self.family], 2 * KEPT_BYTES, visible):
            yield step, pictures

    def _finish(self, picture: np.ndarray, step: Step | None) -> None:
        canvas = self.canvas
        mask, drawn, source = canvas.mask, canvas.pixels, canvas.source
        figures: dict[str, float | None] = {
            "evaluations": step.evaluations if step else 0,
            "seconds": step.seconds if step else 0.0,
        }
        if mask is not None and canvas.source_mask is not None:
            figures |= {
                "background_before_paste_psnr": _compute_psnr_outside(picture, drawn, mask),
                # What the VAE alone makes of the picture: no reconstruction through latents is closer.
                "background_autoencoder_psnr": _compute_psnr_outside(
                    self.editing.encoded.decode(self.family), drawn, mask
                ),
            }
            unchanged = canvas.pixels if canvas.placed else source  # an object that is moved is at its new place
            picture = canvas.paste(picture) if step else unchanged
            outside = ~canvas.source_mask
            if outside.any():
                figures["background_psnr"] = _compute_psnr_outside(picture, source, canvas.source_mask)
            figures["background_exact"] = float(np.array_equal(picture[outside], source[outside]))
        figures |= {f"source_{name}": value for name, value in self._compare_pictures(picture, source).items()}
        figures |= self._classify(picture)
        self.job.update_cell(self.places.edit, images=self._release(picture, self.places.edit), figures=figures)
        metadata = {key: value for key, value in self.request.to_json().items() if key != "base"}
        self.report(
            {"edit": metadata, "sees": self._describe_contents(picture), "size": [picture.shape[1], picture.shape[0]]}
        )
        figures_kept = {**figures, "edit": metadata}
        index = self.places.edit if self.shares_job else 0
        result = self.context.save_picture(
            picture, self.request.base, self.job, index, figures_kept, drawn=self.canvas.size
        )
        self.job.update_cell(self.places.edit, results=(result,))

    def _release(self, picture: np.ndarray, cell: int) -> np.ndarray:
        return self.context.release_pictures(picture[None], self.request.base.model, self.job, cell)

    def _compare_pictures(self, picture: np.ndarray, source: np.ndarray) -> dict[str, float | None]:
        figures = _compute_likeness(picture, source)
        if self.lpips is not None and min(picture.shape[:2]) >= LEAST_SIDE:
            figures["lpips"] = self.lpips.between(picture, source)
        return figures

    def _classify(self, picture: np.ndarray) -> dict[str, float]:
        """The shipped classifier's probability that the picture shows its prompt, where it knows the prompt."""
        if self._classifier is None:
            return {}
        try:
            return {
                "prompt_probability": float(
                    self._classifier.adherence(_convert_to_tensor(picture), self.request.base.prompt)[0]
                )
            }
        except StepwiseError:  # words beyond the classifier's grammar
            return {}

    def _describe_contents(self, picture: np.ndarray) -> str:
        if self._classifier is None:
            return ""
        (reading,) = self._classifier.read(_convert_to_tensor(picture))
        return f"{' left of '.join(reading.labels)} on {reading.background}"

    @cached_property
    def _classifier(self) -> Classifier | None:
        entry = self.context.catalog[self.request.base.model]
        if (entry.quantized.base if entry.quantized else entry.key) != SHIPPED:
            return None
        try:
            return load_classifier()
        except StepwiseError:  # its folder was taken away: the figure is left out
            return None


def _set_cells(job: Job, editing: Editing) -> Places:
    """The cells of an edit alone."""
    steps, inverts = len(editing.levels) - 1, editing.edit.inverts
    labels = (INVERSION, RECONSTRUCTION, EDIT) if inverts else (EDIT,)
    job.set_cells([Cell(label=label, num_steps=steps) for label in labels])
    return Places(2, 0, 1) if inverts else Places(0)


def _load_lpips(context: TaskContext) -> Lpips | None:
    """The metric, where its weights are: they are not shipped, and the page says so."""
    try:
        return load_lpips(context.catalog.folder)
    except ModelMissingError:
        return None


def _convert_to_tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def _drop_infinite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _compute_likeness(picture: np.ndarray, source: np.ndarray) -> dict[str, float | None]:
    small = min(picture.shape[:2]) < WINDOW
    return {"psnr": _drop_infinite(psnr(picture, source)), "ssim": None if small else ssim(picture, source)}


def _compute_psnr_outside(picture: np.ndarray, source: np.ndarray, mask: np.ndarray) -> float | None:
    """PSNR over the pixels outside the mask; None where they are equal or there are none."""
    background = ~mask
    return _drop_infinite(psnr(picture[background][None], source[background][None])) if background.any() else None

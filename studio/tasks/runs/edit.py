"""An edit of a picture in the worker: inversion, reconstruction, edit, and their figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.core.errors import MethodFitError, ModelMissingError, PromptError, SettingsError, StepwiseError
from pipelines.core.loop import denoise
from pipelines.core.types import Step, Trajectory
from pipelines.families.base import Family
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.inversions.trajectories import TrajectoryCache
from pipelines.metrics.classifier import Classifier, load_classifier
from pipelines.metrics.lpips import LEAST_SIDE, Lpips, load_lpips
from pipelines.metrics.pictures import WINDOW, psnr, ssim
from pipelines.prompts.loras import take_loras
from pipelines.requests.encoding import decode
from pipelines.requests.extras import find_extras
from pipelines.requests.step_pictures import StepPictures, with_pictures
from pipelines.requests.text_to_image import ResolvedRun, resolve, resolve_size
from pipelines.workflows.edit.canvas import Canvas, canvas_of
from pipelines.workflows.edit.request import EditRequest
from pipelines.workflows.edit.runs import Editing
from studio.jobs.job import Cell, Job, JobStatus
from studio.tasks.extras import STEERED, give_pictures
from studio.tasks.pictures import read_mask, read_picture
from studio.tasks.recording import KEPT_BYTES, note_decoding, record
from studio.tasks.runs.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["parse", "run"]

SHIPPED = "emoji"
"""The model whose pictures the shipped classifier reads."""


INVERSION, RECONSTRUCTION, EDIT = "Inversion", "Reconstruction", "Edit"


def _resolve_request(
    request: EditRequest, family: Family, context: TaskContext
) -> tuple[EditRequest, Canvas, ResolvedRun]:
    """The request with its final size, margins included, the canvas of that size, and the run."""
    base = resolve_size(request.base, family)
    canvas = canvas_of(request, (base.width, base.height))
    base = base.replace(width=canvas.size[0], height=canvas.size[1])
    family.require_size(*canvas.size)
    if base.width * base.height > context.limits.max_pixels or max(canvas.size) > context.limits.max_side:
        raise SettingsError(
            f"With its margins the picture has {base.width} × {base.height} pixels, more than this studio makes. "
            "Choose smaller margins."
        )
    resolved = resolve(base, family)
    return request.replace(base=resolved.request), canvas, resolved


class _EditRun:
    """One edit in the worker thread: its cells, pictures and figures."""

    def __init__(
        self, request: EditRequest, job: Job, context: TaskContext, family: Family, canvas: Canvas, editing: Editing
    ):
        self.request, self.job, self.context, self.family, self.canvas = request, job, context, family, canvas
        self.editing = editing
        self.lpips = _load_lpips(context)
        steps = len(self.editing.levels) - 1
        labels = (INVERSION, RECONSTRUCTION, EDIT) if self.editing.edit.inverts else (EDIT,)
        job.set_cells([Cell(label=label, num_steps=steps) for label in labels])
        self.last = len(labels) - 1
        notes = " ".join(canvas.notes)
        if notes:
            job.update_cell(self.last, note=notes)

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
            self.job.update_cell(self.last, note=note)
            self._finish(self.canvas.pixels, self.canvas.pixels, None)
        else:
            row = TARGET if self.editing.edit.paired else SOURCE
            with self.editing.run() as run:
                for step, pictures in self._iter_with_pictures(denoise(run)):
                    record(self.job, self.last, step, pictures.rows(row, row + 1))
            picture = decode(self.family, step.latents[row : row + 1])[0]
            note_decoding(self.job, self.last, self.family)
            self._finish(picture, self._autoencode(), step)

    def _invert_and_edit(self, cache: TrajectoryCache) -> None:
        key = (self.job.owner, self.editing.trajectory_key)  # what one person ran is never used for another
        trajectory = cache.get(key)
        if trajectory is None:
            run = self.editing.inversion_run()
            steps = []
            for step, pictures in self._iter_with_pictures(denoise(run)):
                record(self.job, 0, step, pictures.rows(0, 1))
                steps.append(step)
            trajectory = Trajectory(run.latents, tuple(steps))
            cache.put(key, trajectory)
        else:
            self.job.update_cell(0, note="Reused from an earlier edit of this picture.")
            for step, pictures in self._iter_with_pictures(trajectory.steps):
                record(self.job, 0, step, pictures.rows(0, 1))
        with self.editing.run(trajectory) as run:
            for step, pictures in self._iter_with_pictures(denoise(run)):
                for cell, row in ((1, SOURCE), (2, TARGET)):
                    record(self.job, cell, step, pictures.rows(row, row + 1))
        decoded = decode(self.family, self.editing.inversion.visible(step.latents))
        note_decoding(self.job, self.last, self.family)
        source, autoencoded = self.canvas.pixels, self._autoencode()
        inverted = source if self.canvas.reference is None else self.canvas.reference
        best: np.ndarray = decode(self.family, self.editing.inverted_latents)[0]
        figures = {
            **self._compare_pictures(decoded[SOURCE], inverted),
            "autoencoder_psnr": _drop_infinite(psnr(best, inverted)),
        }
        self.job.update_cell(1, images=self._release(decoded[SOURCE], 1), figures=figures)
        self._finish(decoded[TARGET], autoencoded, step)

    def _iter_with_pictures(self, steps: Iterable[Step]) -> Iterator[tuple[Step, StepPictures]]:
        """Steps with what they show of the latents that the inversion runs on, row by row."""
        visible = self.editing.inversion.visible
        numbered = ((0, step) for step in steps)
        for _, step, pictures in with_pictures(numbered, [self.family], 2 * KEPT_BYTES, visible):
            yield step, pictures

    def _autoencode(self) -> np.ndarray:
        """What the VAE alone makes of the picture: no reconstruction through latents is closer."""
        autoencoded: np.ndarray = decode(self.family, self.editing.image_latents)[0]
        return autoencoded

    def _finish(self, picture: np.ndarray, autoencoded: np.ndarray, step: Step | None) -> None:
        canvas = self.canvas
        mask, drawn, source = canvas.mask, canvas.pixels, canvas.source
        figures: dict[str, float | None] = {
            "evaluations": step.evaluations if step else 0,
            "seconds": step.seconds if step else 0.0,
        }
        if mask is not None and canvas.source_mask is not None:
            figures |= {
                "background_psnr": _compute_psnr_outside(picture, drawn, mask),
                "background_autoencoder_psnr": _compute_psnr_outside(autoencoded, drawn, mask),
            }
            unchanged = canvas.pixels if canvas.placed else source  # an object that is moved is at its new place
            picture = canvas.paste(picture) if step else unchanged
            outside = ~canvas.source_mask
            figures["background_exact"] = float(np.array_equal(picture[outside], source[outside]))
        figures |= {f"source_{name}": value for name, value in self._compare_pictures(picture, source).items()}
        figures |= self._classify(picture)
        self.job.update_cell(self.last, images=self._release(picture, self.last), figures=figures)
        metadata = {key: value for key, value in self.request.to_json().items() if key != "base"}
        self.job.set_outcome(
            {"edit": metadata, "sees": self._describe_contents(picture), "size": [picture.shape[1], picture.shape[0]]}
        )
        figures_kept = {**figures, "edit": metadata}
        result = self.context.save_picture(
            picture, self.request.base, self.job, figures=figures_kept, drawn=self.canvas.size
        )
        self.job.update_cell(self.last, results=(result,))

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


def parse(values: Mapping[str, Any], context: TaskContext) -> EditRequest:
    """Read untrusted values: see `Task.parse`."""
    values = _steer_by_source(values)
    request = EditRequest.parse(
        values, lambda plain: parse_request(plain, context, steered=True), read_picture, read_mask
    )
    if take_loras(request.source_prompt)[1]:
        raise PromptError("The source prompt names a LoRA. Put it into the prompt: it acts on the whole edit.")
    # With the target's own seed: where both share a pattern, the same choices are drawn for both.
    request = request.replace(source_prompt=context.expand(request.source_prompt, request.base.seed))
    request.check(context.limits, context.traits(request.base.model))
    max_side, base = context.limits.max_side, request.base
    # Jobs are kept, uploads are large.
    request = request.within(request.count_pixels_kept(base.width or max_side, base.height or max_side))
    base_values = values.get("base", {})
    if "width" not in base_values and "height" not in base_values:
        request = request.replace(base=request.base.replace(width=0, height=0))
    return request


def _steer_by_source(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the source as the picture of a ControlNet or an IP-Adapter that has none of its own."""
    base, picture = values.get("base"), values.get("picture")
    if not isinstance(base, Mapping) or picture is None:
        return values
    steered = {
        field: {**choice, "picture": picture}
        for field in STEERED
        if isinstance(choice := base.get(field), Mapping) and choice.get("model") and not choice.get("picture")
    }
    return {**values, "base": {**base, **steered}} if steered else values


def run(request: EditRequest, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job: see `Task.run`."""
    with context.model(request.base.model, job, find_extras(request.base)) as family:
        if not isinstance(family, Family):
            raise MethodFitError("This model runs through its own pipeline only and cannot edit here. Choose another.")
        model = request.check_model(context.limits, family)
        size = resolve_size(request.base, family)
        request = request.within(request.count_pixels_kept(size.width, size.height))
        job.request = job.request.replace(picture=request.picture, mask=request.mask, reference=request.reference)
        request, canvas, resolved = _resolve_request(request, family, context)
        give_pictures(family, [request.base], context)
        with family.loras(context.load_loras(request.base.loras)):
            edit_run = _EditRun(
                request, job, context, family, canvas, Editing(request, resolved, model, canvas, job.cancelled)
            )
            job.set_status(JobStatus.RUNNING)
            edit_run.run(context.caches.get("edit", TrajectoryCache))

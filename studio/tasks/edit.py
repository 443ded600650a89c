"""The task behind the Edit tab, the /edit endpoint and `python -m studio edit`."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from pipelines.core.errors import MethodFitError, ModelMissingError, PictureError, SettingsError, StepwiseError
from pipelines.core.loop import denoise
from pipelines.core.types import Step, Trajectory
from pipelines.families.base import Family
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.inversions.trajectories import TrajectoryCache
from pipelines.metrics.classifier import Classifier, load_classifier
from pipelines.metrics.lpips import LEAST_SIDE, Lpips, load_lpips
from pipelines.metrics.pictures import WINDOW, psnr, ssim
from pipelines.requests.text_to_image import ResolvedRun, decode, resolve, resolve_size
from pipelines.workflows.edit.request import Canvas, EditRequest, Picture, canvas_of, pixels_kept
from pipelines.workflows.edit.runs import Editing
from studio.jobs.job import Cell, Job, JobStatus
from studio.media.pictures import open_picture
from studio.tasks.recording import record
from studio.tasks.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["Edit", "read_mask", "read_picture"]

SHIPPED = "emoji"
"""The model whose pictures the shipped classifier reads."""

INVERSION, RECONSTRUCTION, EDIT = "Inversion", "Reconstruction", "Edit"


def _opened(value: Any, what: str) -> Image.Image:
    """A picture from its file's bytes, or from these as base64 or a data URL.

    Raises:
        PictureError: it is something else, or cannot be read.
    """
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, str):
        try:
            value = base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
        except (binascii.Error, ValueError):
            raise PictureError(
                f"The {what} is given as {value[:40]!r}. Give the bytes of its file as base64."
            ) from None
    if not isinstance(value, bytes):
        raise PictureError(f"The {what} is given as {str(value)[:40]!r}. Give the bytes of its file as base64.")
    return open_picture(value)


def read_picture(value: Any) -> Picture:
    """The source picture of an edit; what is transparent becomes white.

    Args:
        value: a PIL picture as `open_picture` gives it, or a file's bytes, plain or as base64.

    Raises:
        PictureError: it cannot be read.
    """
    if isinstance(value, Picture):
        return value
    opened = _opened(value, "picture")
    notes = list(opened.info.get("notes", ()))
    if opened.mode == "RGBA":
        if opened.getextrema()[3][0] < 255:
            notes.append("What was transparent is white.")
        opened = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened)
    return Picture(np.asarray(opened.convert("RGB")), tuple(notes))


def read_mask(value: Any) -> Picture:
    """The mask of an edit: white, or opaque where a picture has transparent parts, may change.

    Args:
        value: a boolean array (H, W), or what `read_picture` takes.

    Raises:
        PictureError: it cannot be read.
    """
    if isinstance(value, Picture):
        return value
    if isinstance(value, np.ndarray) and value.dtype == bool and value.ndim == 2:
        return Picture(value)
    opened = _opened(value, "mask")
    return Picture(np.asarray(opened.getchannel("A") if opened.mode == "RGBA" else opened.convert("L")) > 127)


class Edit:
    """Change a picture; the way up to the noise and the way back down are both visible step by step."""

    key = "edit"

    def parse(self, values: Mapping[str, Any], context: TaskContext) -> EditRequest:
        request = EditRequest.parse(values, lambda plain: parse_request(plain, context), read_picture, read_mask)
        # With the target's own seed: where both share a pattern, the same choices are drawn for both.
        request = request.replace(source_prompt=context.expand(request.source_prompt, request.base.seed))
        request.check(context.limits, context.traits(request.base.model))
        most, base = context.limits.max_side, request.base
        request = request.within(
            pixels_kept(base.width or most, base.height or most)
        )  # jobs are kept, uploads are large
        given = values.get("base", {})
        if "width" not in given and "height" not in given:
            request = request.replace(base=request.base.replace(width=0, height=0))
        return request

    def run(self, request: EditRequest, job: Job, context: TaskContext) -> None:
        with context.model(request.base.model, job) as family:
            if not isinstance(family, Family):
                raise MethodFitError(
                    "This model runs through its own pipeline only and cannot edit here. Choose another."
                )
            model = request.check_model(context.limits, family)
            size = resolve_size(request.base, family)
            request = request.within(pixels_kept(size.width, size.height))
            job.request = job.request.replace(picture=request.picture, mask=request.mask)
            request, canvas, resolved = _resolved(request, family, context)
            with family.loras(context.load_loras(request.base.loras)):
                edited = _Edited(
                    request, job, context, family, canvas, Editing(request, resolved, model, canvas, job.cancelled)
                )
                job.set_status(JobStatus.RUNNING)
                edited.run(context.caches.get(self.key, TrajectoryCache))


def _resolved(request: EditRequest, family: Family, context: TaskContext) -> tuple[EditRequest, Canvas, ResolvedRun]:
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


class _Edited:
    """One edit in the worker thread: its cells, pictures and figures."""

    def __init__(
        self, request: EditRequest, job: Job, context: TaskContext, family: Family, canvas: Canvas, editing: Editing
    ):
        self.request, self.job, self.context, self.family, self.canvas = request, job, context, family, canvas
        self.editing = editing
        self.lpips = _lpips(context)
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
            note = f"{' '.join(self.canvas.notes)} At strength 0 no step is run: this is the picture itself.".strip()
            self.job.update_cell(self.last, note=note)
            self._finish(self.canvas.pixels, self.canvas.pixels, None)
        else:
            with self.editing.run() as run:
                for step in denoise(run):
                    record(self.job, self.last, step, self.family)
            self._finish(decode(self.family, step.latents)[0], self._autoencoded(), step)

    def _invert_and_edit(self, cache: TrajectoryCache) -> None:
        key = self.editing.trajectory_key
        trajectory = cache.get(key)
        if trajectory is None:
            run = self.editing.inversion_run()
            steps = []
            for step in denoise(run):
                record(self.job, 0, self._rows(step, slice(0, 1)), self.family)
                steps.append(step)
            trajectory = Trajectory(run.latents, tuple(steps))
            cache.put(key, trajectory)
        else:
            self.job.update_cell(0, note="Kept from an earlier edit of this picture.")
            for step in trajectory.steps:
                record(self.job, 0, self._rows(step, slice(0, 1)), self.family)
        with self.editing.run(trajectory) as run:
            for step in denoise(run):
                for cell, row in ((1, SOURCE), (2, TARGET)):
                    record(self.job, cell, self._rows(step, slice(row, row + 1)), self.family)
        pictures = decode(self.family, self.editing.inversion.visible(step.latents))
        source, autoencoded = self.canvas.pixels, self._autoencoded()
        figures = {**self._likeness(pictures[SOURCE], source), "autoencoder_psnr": _decibels(psnr(autoencoded, source))}
        self.job.update_cell(1, images=pictures[SOURCE][None], figures=figures)
        self._finish(pictures[TARGET], autoencoded, step)

    def _rows(self, step: Step, rows: slice) -> Step:
        visible = self.editing.inversion.visible
        return dataclasses.replace(step, latents=visible(step.latents)[rows], denoised=visible(step.denoised)[rows])

    def _autoencoded(self) -> np.ndarray:
        """What the VAE alone makes of the picture: no reconstruction through latents is closer."""
        return decode(self.family, self.editing.image_latents)[0]

    def _finish(self, picture: np.ndarray, autoencoded: np.ndarray, step: Step | None) -> None:
        mask, source = self.canvas.mask, self.canvas.pixels
        figures: dict[str, float | None] = {
            "evaluations": step.evaluations if step else 0,
            "seconds": step.seconds if step else 0.0,
        }
        if mask is not None:
            figures |= {
                "background_psnr": _outside(picture, source, mask),
                "background_autoencoder_psnr": _outside(autoencoded, source, mask),
            }
            if not self.editing.edit.inverts:
                picture = _pasted(picture, source, mask)
            figures["background_exact"] = float(np.array_equal(picture[~mask], source[~mask]))
        figures |= {f"source_{name}": value for name, value in self._likeness(picture, source).items()}
        figures |= self._verdict(picture)
        self.job.update_cell(self.last, images=picture[None], figures=figures)
        metadata = {key: value for key, value in self.request.to_json().items() if key != "base"}
        self.job.set_outcome({"edit": metadata, "sees": self._sees(picture), "size": list(self.canvas.size)})
        result = self.context.save_picture(picture, self.request.base, self.job, figures={**figures, "edit": metadata})
        self.job.update_cell(self.last, results=(result,))

    def _likeness(self, picture: np.ndarray, source: np.ndarray) -> dict[str, float | None]:
        found = _likeness(picture, source)
        if self.lpips is not None and min(picture.shape[:2]) >= LEAST_SIDE:
            found["lpips"] = self.lpips.between(picture, source)
        return found

    def _verdict(self, picture: np.ndarray) -> dict[str, float]:
        """The shipped classifier's probability that the picture shows its prompt, where it knows the prompt."""
        if self._classifier is None:
            return {}
        try:
            return {
                "prompt_probability": float(self._classifier.adherence(_tensor(picture), self.request.base.prompt)[0])
            }
        except StepwiseError:  # words beyond the classifier's grammar
            return {}

    def _sees(self, picture: np.ndarray) -> str:
        if self._classifier is None:
            return ""
        (reading,) = self._classifier.read(_tensor(picture))
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


def _pasted(picture: np.ndarray, source: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The source outside the mask: the VAE alone would change it a little everywhere."""
    return np.where(mask[..., None], picture, source)


def _lpips(context: TaskContext) -> Lpips | None:
    """The metric, where its weights are: they are not shipped, and the page says so."""
    try:
        return load_lpips(context.catalog.folder)
    except ModelMissingError:
        return None


def _tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def _decibels(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _likeness(picture: np.ndarray, source: np.ndarray) -> dict[str, float | None]:
    small = min(picture.shape[:2]) < WINDOW
    return {"psnr": _decibels(psnr(picture, source)), "ssim": None if small else ssim(picture, source)}


def _outside(picture: np.ndarray, source: np.ndarray, mask: np.ndarray) -> float | None:
    """PSNR over the pixels outside the mask; None where they are equal or there are none."""
    kept = ~mask
    return _decibels(psnr(picture[kept][None], source[kept][None])) if kept.any() else None

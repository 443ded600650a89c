"""An enlarged picture, and a second pass at its new size."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipelines.core.loop import denoise
from pipelines.core.types import Request
from pipelines.requests.encoding import decode
from pipelines.requests.extras import find_extras
from pipelines.requests.step_pictures import with_pictures
from pipelines.requests.text_to_image import resolve
from pipelines.upscaling.enlarge import enlarge
from pipelines.workflows.edit.canvas import canvas_of
from pipelines.workflows.edit.request import Picture
from pipelines.workflows.edit.runs import Editing
from pipelines.workflows.upscale import UpscaleRequest
from studio.jobs.job import Cell, Job, JobStatus
from studio.tasks.extras import STEERED
from studio.tasks.own_loop import refuse_stock, require_own_loop
from studio.tasks.pictures import read_picture
from studio.tasks.recording import KEPT_BYTES, record
from studio.tasks.runs.text_to_image import parse_request
from studio.tasks.upscaler_files import find_upscaler, load_named_upscaler

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["parse", "run"]

_STOCK = " and has no second pass here. Choose another."


def _read_base(plain: Mapping[str, object], context: TaskContext, prompt_needed: bool) -> Request:
    """Read the settings of the picture; a size in them is the one at which it was drawn, never the model's own."""
    plain = {name: value for name, value in plain.items() if name not in (*STEERED, "ensemble", "sliders", "story")}
    return parse_request({"width": 0, "height": 0, **plain}, context, prompt_needed, second_pass=True)


def _round_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Round a size in pixels to what a model takes."""
    width, height = (max(multiple, round(side / multiple) * multiple) for side in size)
    return width, height


def _store(
    pixels: np.ndarray, request: UpscaleRequest, job: Job, context: TaskContext, figures: Mapping[str, float]
) -> str:
    """Store the picture: with the settings that made it where they are known, else only with how it was enlarged."""
    upscaled = {name: value for name, value in request.to_json().items() if name != "base"}
    if request.described:
        width, height = request.picture.size
        size = request.base.width or width, request.base.height or height
        return context.save_picture(pixels, request.base, job, figures={**figures, "upscale": upscaled}, drawn=size)
    metadata = {"figures": {**figures, "upscale": upscaled}}
    return context.store.save(Image.fromarray(pixels), metadata, kind=job.task, job=job.id, owner=job.owner).id


def parse(values: Mapping[str, object], context: TaskContext) -> UpscaleRequest:
    """Read untrusted values: see `Task.parse`."""
    prompt_needed = bool(values.get("strength"))
    request = UpscaleRequest.parse(values, lambda plain: _read_base(plain, context, prompt_needed), read_picture)
    request.check(context.limits)
    if request.strength:
        refuse_stock(context.catalog[request.base.model], _STOCK)
    find_upscaler(request.upscaler, context)
    return request


def run(request: UpscaleRequest, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job: see `Task.run`."""
    job.set_cells([Cell(label="Upscaled")])
    job.set_status(JobStatus.LOADING, "Loading the upscaler")
    network = load_named_upscaler(request.upscaler, context)
    job.set_status(JobStatus.RUNNING)
    start = time.monotonic()
    enlarged = enlarge(request.picture.pixels, network, request.size, context.device, cancelled=job.cancelled)
    figures = {"seconds": time.monotonic() - start, "evaluations": 0.0}
    if request.strength:
        enlarged, pass_figures = _run_second_pass(request, Picture(enlarged, request.picture.notes), job, context)
        figures = {**figures, **pass_figures, "seconds": figures["seconds"] + pass_figures.get("seconds", 0.0)}
    job.update_cell(0, figures=figures, note=" ".join(request.picture.notes))
    enlarged = context.release_pictures(enlarged[None], request.base.model, job)[0]
    job.update_cell(0, images=enlarged[None])
    job.update_cell(0, results=(_store(enlarged, request, job, context, figures),))


def _run_second_pass(
    request: UpscaleRequest, enlarged: Picture, job: Job, context: TaskContext
) -> tuple[np.ndarray, dict[str, float]]:
    """Denoise part of the way at the enlarged size, brought to what the model takes."""
    with context.model(request.base.model, job, find_extras(request.base)) as loaded:
        family = require_own_loop(loaded, _STOCK)
        size = _round_size(enlarged.size, family.size_multiple)
        edit = request.second_pass(enlarged, size)
        model = edit.check_model(context.limits, family)
        canvas, resolved = canvas_of(edit, size), resolve(edit.base, family)
        with family.loras(context.load_loras(request.base.loras)):
            editing = Editing(edit.replace(base=resolved.request), resolved, model, canvas, job.cancelled)
            job.update_cell(0, num_steps=len(editing.levels) - 1)
            job.set_status(JobStatus.RUNNING)
            if len(editing.levels) < 2:  # so little strength is no step
                return canvas.pixels, {}
            with editing.run() as run:
                steps = ((0, step) for step in denoise(run))
                for _, step, pictures in with_pictures(steps, [family], KEPT_BYTES):
                    record(job, 0, step, pictures)
            return decode(family, step.latents)[0], {"evaluations": step.evaluations, "seconds": step.seconds}

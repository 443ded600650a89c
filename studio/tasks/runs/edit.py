"""An edit of a picture in the worker: what is asked for, settled on its model, and then run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import PromptError, SettingsError
from pipelines.core.types import Choice
from pipelines.edits import EDITS
from pipelines.families.base import Family
from pipelines.inversions.trajectories import TrajectoryCache
from pipelines.prompts.loras import take_loras
from pipelines.requests.extras import find_extras
from pipelines.requests.text_to_image import ResolvedRun, resolve, resolve_size
from pipelines.workflows.edit.canvas import Canvas, canvas_of
from pipelines.workflows.edit.encoded import EncodedPictures
from pipelines.workflows.edit.request import EditRequest
from pipelines.workflows.edit.runs import Editing
from studio.jobs.job import Job, JobStatus
from studio.tasks.extras import STEERED, give_pictures
from studio.tasks.own_loop import refuse_stock, require_own_loop
from studio.tasks.pictures import read_mask, read_picture
from studio.tasks.runs.edit_run import EditRun
from studio.tasks.runs.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["STOCK", "leave_size_open", "parse", "read_request", "run", "settle"]

STOCK = " and cannot edit here. Choose another."
"""Why a model that runs through its own pipeline is refused."""


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


def parse(values: Mapping[str, object], context: TaskContext) -> EditRequest:
    """Read untrusted values: see `Task.parse`."""
    request = read_request(values, context)
    request.check(context.limits, context.traits(request.base.model))
    max_side, base = context.limits.max_side, request.base
    if request.mask is not None and base.width and base.height:
        canvas_of(request, (base.width, base.height))  # refuses a mask of which nothing is left at this size
    # Jobs are kept, uploads are large.
    request = request.within(request.count_pixels_kept(base.width or max_side, base.height or max_side))
    return leave_size_open(request, values)


def read_request(values: Mapping[str, object], context: TaskContext) -> EditRequest:
    """Read untrusted values to an edit whose methods are not checked yet.

    Raises:
        SettingsError: the first thing that is wrong.
    """
    values = _fill_prompt(_steer_by_source(values))
    request = EditRequest.parse(
        values, lambda plain: parse_request(plain, context, steered=True), read_picture, read_mask
    )
    refuse_stock(context.catalog[request.base.model], STOCK)
    if take_loras(request.source_prompt)[1]:
        raise PromptError("The source prompt names a LoRA. Put it into the prompt: it acts on the whole edit.")
    # With the target's own seed: where both share a pattern, the same choices are drawn for both.
    return request.replace(source_prompt=context.expand(request.source_prompt, request.base.seed))


def leave_size_open(request: EditRequest, values: Mapping[str, Any]) -> EditRequest:
    """Return the request with the model's own size where none is asked for."""
    base_values = values.get("base", {})
    if "width" in base_values or "height" in base_values:
        return request
    return request.replace(base=request.base.replace(width=0, height=0))


def _fill_prompt(values: Mapping[str, object]) -> Mapping[str, Any]:
    """With the source prompt in the empty prompt's place, of an edit that doesn't use the prompt."""
    base, source, key = values.get("base"), values.get("source_prompt"), Choice.parse(values.get("edit", "inpaint")).key
    if not isinstance(base, Mapping) or not isinstance(source, str) or str(base.get("prompt", "")).strip():
        return values
    keeps = key in EDITS and EDITS[key].build().keeps_prompt
    return {**values, "base": {**base, "prompt": source}} if keeps else values


def _steer_by_source(values: Mapping[str, object]) -> Mapping[str, Any]:
    """With the source as the picture of a ControlNet, a T2I-Adapter or an IP-Adapter that has none of its own."""
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
        family = require_own_loop(family, STOCK)
        request, canvas, editing = settle(request, job, context, family)
        job.request = job.request.replace(picture=request.picture, mask=request.mask, reference=request.reference)
        with family.loras(context.load_loras(request.base.loras)):
            edit_run = EditRun(request, job, context, family, canvas, editing())
            job.set_status(JobStatus.RUNNING)
            edit_run.run(context.caches.get("edit", TrajectoryCache))


def settle(
    request: EditRequest, job: Job, context: TaskContext, family: Family
) -> tuple[EditRequest, Canvas, Callable[[], Editing]]:
    """Return the request settled on its model, its canvas, and what encodes the picture once the LoRAs are applied.

    Raises:
        SettingsError: something does not fit the model.
    """
    model = request.check_model(context.limits, family)
    size = resolve_size(request.base, family)
    request = request.within(request.count_pixels_kept(size.width, size.height))
    request, canvas, resolved = _resolve_request(request, family, context)
    give_pictures(family, [request.base], context)
    pictures = context.caches.get("encoded pictures", EncodedPictures)
    return request, canvas, lambda: Editing(request, resolved, model, canvas, job.cancelled, pictures)

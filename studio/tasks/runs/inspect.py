"""An inspection in the worker: a cell whose pictures are the inspected one or those of a probe, and an outcome."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.controls.direction_files import FOLDER, list_directions, write_directions
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.families.directions import MIDDLE
from pipelines.inspection import INSPECTIONS
from pipelines.inspection.base import ComparingInspection, Finding
from pipelines.inspection.directions import DirectionSearch
from pipelines.inspection.personalization import Personalization, find_start, replace_word
from pipelines.requests.text_to_image import resolve
from pipelines.weights.embedding_files import write_embedding
from pipelines.workflows.inspect import InspectRequest, run_inspection
from studio.jobs.job import Cell, Job, JobStatus
from studio.tasks.own_loop import refuse_stock, require_own_loop
from studio.tasks.pictures import read_picture
from studio.tasks.runs.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["parse", "run"]

_STOCK = " and cannot be inspected. Choose another."

_DIGITS = 6


def parse(values: Mapping[str, object], context: TaskContext) -> InspectRequest:
    """Read untrusted values: see `Task.parse`."""
    request = InspectRequest.parse(values, lambda plain: parse_request(plain, context), read_picture)
    refuse_stock(context.catalog[request.base.model], _STOCK)
    request.check(context.traits(request.base.model))
    inspection = request.build()
    if isinstance(inspection, ComparingInspection):
        inspection.check_texts(request.base.prompt)
    if isinstance(inspection, Personalization):
        _require_savable(inspection, request.base.prompt, context)
    if isinstance(inspection, DirectionSearch):
        _require_savable_directions(inspection, request, context)
    return request


def _require_savable(inspection: Personalization, prompt: str, context: TaskContext) -> None:
    """Refuse a word that the prompt has no place for, or that is there already."""
    chosen = inspection.settings
    replace_word(prompt, find_start(prompt, chosen.start), chosen.word)
    if not chosen.save:
        return
    context.require_keeping()
    if any(one.key.lower() == chosen.word for one in context.catalog.embeddings()):
        raise SettingsError(f"There is an embedding {chosen.word!r} already. Give the new word another name.")


def _require_savable_directions(inspection: DirectionSearch, request: InspectRequest, context: TaskContext) -> None:
    """Refuse a name that is taken or none, and a space that the model does not have."""
    inspection.check()
    traits = context.traits(request.base.model)
    if inspection.settings.space == MIDDLE and traits and traits.backbone != "unet":
        raise MethodFitError("This model has no UNet with a middle block. Choose the space 'latents'.")
    if inspection.name:
        context.require_keeping()
        if inspection.name in list_directions(context.catalog.folder / FOLDER):
            raise SettingsError(f"There are sliders {inspection.name!r} already. Give the new ones another name.")


def run(request: InspectRequest, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job: see `Task.run`."""
    label = INSPECTIONS[request.inspection.key].label
    with context.model(request.base.model, job) as loaded:
        family = require_own_loop(loaded, _STOCK)
        resolved = resolve(request.base, family)
        with family.loras(context.load_loras(request.base.loras)):
            job.set_cells([Cell(label=label)])
            job.set_status(JobStatus.RUNNING)
            start, pieces, total = time.monotonic(), [0], request.build().count_pieces()

            def advance() -> None:
                pieces[0] += 1
                job.update_cell(0, figures={"pieces": float(min(pieces[0], total)), "of": float(total)})

            found, looked = run_inspection(request, resolved, family, job.cancelled, advance)
    for word, vectors in found.words.items():
        write_embedding(vectors, context.catalog.folder / "embeddings" / f"{word}.safetensors")
    if found.directions is not None and (name := request.inspection.settings.get("name")):
        write_directions(found.directions, context.catalog.folder / FOLDER, str(name))
    pictures = found.pictures if found.pictures is not None else np.asarray(looked.picture)[None]
    released = context.release_pictures(pictures, request.base.model, job)
    figures = {"evaluations": looked.evaluations, "seconds": time.monotonic() - start}
    job.update_cell(0, images=released, figures=figures, note=found.sentence)
    job.set_outcome(_describe(found, request))


def _describe(found: Finding, request: InspectRequest) -> dict[str, Any]:
    """The finding as plain values."""
    return {
        "inspection": request.inspection.to_json(),
        "sentence": found.sentence,
        "figures": {name: value if math.isfinite(value) else None for name, value in found.figures.items()},
        "maps": {name: np.round(values.astype(np.float64), _DIGITS).tolist() for name, values in found.maps.items()},
        "curve": [[float(x), float(y)] for x, y in found.curve],
        "axes": list(found.axes),
    }

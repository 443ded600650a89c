"""What is found out about the cells of a comparison, and the same as plain values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.errors import StepwiseError
from pipelines.core.types import Request
from pipelines.requests.text_to_image import ResolvedRun
from pipelines.workflows.compare.labels import axis_value
from pipelines.workflows.compare.request import ComparisonRequest
from studio.jobs.job import Cell, Job

if TYPE_CHECKING:
    from pipelines.models.entry import CatalogEntry
    from studio.tasks.context import TaskContext

__all__ = ["Slot", "build_outcome"]


@dataclasses.dataclass
class Slot:
    """Describes one trajectory to run: a cell or a reference.

    Attributes:
        request: with the model's own size and the final number of steps as soon as these are known.
        measured: of a reference, the cells that it measures; empty for a cell.
        picture: (H, W, 3), uint8, when it is finished.
        problem: why it cannot run.
        resolved: the request settled on its model, as soon as that is loaded.
    """

    request: Request
    measured: tuple[int, ...] = ()
    picture: np.ndarray | None = None
    problem: StepwiseError | None = None
    resolved: ResolvedRun | None = None


def build_outcome(request: ComparisonRequest, slots: Sequence[Slot], job: Job, context: TaskContext) -> dict[str, Any]:
    """Build the comparison as plain values: settings, one row a cell, and the axes of a grid.

    Args:
        request: of the comparison.
        slots: of its cells, in order.
        job: that shows them.
        context: whose catalog has the labels of the models.
    """
    axes = [
        {
            "field": axis.field,
            "label": axis.label,
            "values": [_format_value(axis.field, value, context.catalog) for value in axis.values],
        }
        for axis in (request.x, request.y)
        if axis
    ]
    models = {cell.request.model for cell in request.cells}
    return {
        "prompt": request.base.prompt,
        "seed": request.base.seed,
        "equal": request.equal,
        "axes": axes,
        "models": [context.catalog[model].label for model in sorted(models)],
        "reference_steps": request.reference_steps if request.reference else None,
        "rows": [
            _build_row(index, slot, cell)
            for index, (slot, cell) in enumerate(zip(slots, job.view().cells, strict=False))
        ],
    }


def _format_value(field: str, value: Any, catalog: Mapping[str, CatalogEntry]) -> str:
    return catalog[value].label if field == "model" else axis_value(field, value)


def _build_row(index: int, slot: Slot, cell: Cell) -> dict[str, Any]:
    last = cell.rows[-1] if cell.rows else None
    decibels = cell.figures.get("psnr")
    return {
        "cell": index + 1,
        "label": cell.label,
        "settings": slot.request.to_json(),
        "steps": len(cell.rows),
        "evaluations": last.evaluations if last else 0,
        "seconds": last.seconds if last else 0.0,
        "psnr": _keep_finite(decibels),
        "ssim": cell.figures.get("ssim"),
        "uncached_psnr": _keep_finite(cell.figures.get("uncached_psnr")),
        "identical": decibels == math.inf,
        "result": cell.results[0] if cell.results else None,
        "problem": str(slot.problem) if slot.problem else "",
    }


def _keep_finite(decibels: float | None) -> float | None:
    """The figure, or None where the pictures are equal: JSON knows no infinity."""
    return decibels if decibels is not None and math.isfinite(decibels) else None

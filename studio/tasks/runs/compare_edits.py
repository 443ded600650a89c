"""One picture edited in several ways, one after the other on the model borrowed once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import StepwiseError
from pipelines.families.base import Family
from pipelines.inversions.trajectories import TrajectoryCache
from pipelines.requests.extras import find_extras
from pipelines.workflows.edit.comparison import ALL, EditComparison
from studio.jobs.job import Cell, Job, JobStatus
from studio.tasks.own_loop import require_own_loop
from studio.tasks.runs.edit import STOCK, leave_size_open, read_request, settle
from studio.tasks.runs.edit_run import EditRun, Places

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["parse", "run"]

_LOG = logging.getLogger("stepwise.edit")


def parse(values: Mapping[str, object], context: TaskContext) -> EditComparison:
    """Read untrusted values: see `Task.parse`."""
    own = {name: value for name, value in values.items() if name not in ("edits", "inversions")}
    base = leave_size_open(read_request(own, context), own)
    edits, inversions = values.get("edits", ALL), values.get("inversions", [base.inversion.key])
    comparison = EditComparison.plan(base, edits, inversions, context.limits, context.traits(base.base.model))
    side, request = context.limits.max_side, base.base
    kept = max(
        cell.request.count_pixels_kept(request.width or side, request.height or side) for cell in comparison.cells
    )
    return comparison.share_pictures(base.within(kept))


def run(request: EditComparison, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job: see `Task.run`."""
    comparing = _Comparing(request, job, context)
    try:
        with context.model(request.base.model, job, find_extras(request.base)) as family:
            family = require_own_loop(family, STOCK)
            with family.loras(context.load_loras(request.base.loras)):
                comparing.run(family)
    finally:
        comparing.report()


class _Comparing:
    """One comparison in the worker thread."""

    def __init__(self, request: EditComparison, job: Job, context: TaskContext):
        self.request, self.job, self.context = request, job, context
        self.problems = [cell.problem for cell in request.cells]
        self.outcomes: dict[int, dict[str, Any]] = {}
        steps = request.base.num_inference_steps
        job.set_cells(
            [
                Cell(label=cell.label, num_steps=0 if cell.problem else steps, note=cell.problem)
                for cell in request.cells
            ]
        )

    def run(self, family: Family) -> None:
        """Edit in each way that nothing is known against; what fails only fails its own cell.

        Raises:
            Cancelled: the person stopped it; finished cells stay.
            StepwiseError: no cell could run.
        """
        failed: StepwiseError | None = None
        for index, cell in enumerate(self.request.cells):
            if cell.problem:
                continue
            self.job.set_status(JobStatus.RUNNING, cell.label)
            try:
                self._edit(index, family)
            except StepwiseError as error:
                _LOG.info("job %s, cell %s failed: %s", self.job.id, index, error)
                failed = error
                self.problems[index] = str(error)
                rows = len(self.job.view().cells[index].rows)
                self.job.update_cell(index, num_steps=rows, note=str(error))
        self.job.set_status(JobStatus.RUNNING)
        if failed is not None and all(self.problems):
            raise failed

    def _edit(self, index: int, family: Family) -> None:
        request, canvas, build = settle(self.request.cells[index].request, self.job, self.context, family)
        editing = build()
        self.job.update_cell(index, num_steps=len(editing.levels) - 1)
        run = EditRun(
            request,
            self.job,
            self.context,
            family,
            canvas,
            editing,
            Places(index, counts_inversion=True),
            lambda outcome: self.outcomes.__setitem__(index, outcome),
        )
        run.run(self.context.caches.get("edit", TrajectoryCache))

    def report(self) -> None:
        """Tell the job what came out, one row a cell, in the form of a comparison's."""
        base, cells = self.request.base, self.job.view().cells
        self.job.set_outcome(
            {
                "prompt": base.prompt,
                "seed": base.seed,
                "equal": "steps",
                "axes": [],
                "models": [self.context.catalog[base.model].label],
                "reference_steps": None,
                "rows": [self._build_row(index, cell) for index, cell in enumerate(cells)],
            }
        )

    def _build_row(self, index: int, cell: Cell) -> dict[str, Any]:
        request, last = self.request.cells[index].request, cell.rows[-1] if cell.rows else None
        return {
            "label": cell.label,
            "edit": request.edit.to_json(),
            "inversion": request.inversion.to_json() if request.build_edit().inverts else None,
            "steps": len(cell.rows),
            "evaluations": last.evaluations if last else 0,
            "seconds": last.seconds if last else 0.0,
            # A comparison's figures to a long run, which an edit has none of.
            "psnr": None,
            "ssim": None,
            "identical": False,
            "sees": self.outcomes.get(index, {}).get("sees", ""),
            "figures": dict(cell.figures),
            "result": cell.results[0] if cell.results else None,
            "problem": self.problems[index],
        }

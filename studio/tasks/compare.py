"""The task behind the Compare tab, the /compare endpoint and `python -m studio compare`."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.errors import MethodFitError, StepwiseError, StoreError
from pipelines.core.loop import denoise_together
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.requests.limits import check_orders
from pipelines.requests.reference import ReferenceCache, likeness, reference_of
from pipelines.requests.text_to_image import ResolvedRun, build_run, decode, resolve
from pipelines.workflows.compare.labels import axis_value, labels
from pipelines.workflows.compare.request import ComparisonRequest, by_model, equal_steps, evaluations, waves
from studio.jobs.job import Cell, Job, JobStatus
from studio.tasks.recording import record
from studio.tasks.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["Compare"]

_LOG = logging.getLogger("stepwise.compare")


class Compare:
    """Run the cells of a comparison, those of one model together, then measure them against long runs."""

    key = "compare"

    def parse(self, values: Mapping[str, Any], context: TaskContext) -> ComparisonRequest:
        return ComparisonRequest.parse(
            values, lambda plain: parse_request(plain, context), context.limits, context.traits
        )

    def run(self, request: ComparisonRequest, job: Job, context: TaskContext) -> None:
        comparing = _Comparing(request, job, context, context.caches.get(self.key, ReferenceCache))
        try:
            comparing.run()
        finally:
            job.set_outcome(comparing.outcome())


@dataclasses.dataclass
class _Slot:
    """One trajectory to run: a cell or a reference.

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


class _Comparing:
    """One comparison in the worker thread: the job's cells, and behind them the references."""

    def __init__(self, request: ComparisonRequest, job: Job, context: TaskContext, cache: ReferenceCache):
        self.request, self.job, self.context, self.cache = request, job, context, cache
        self.slots = [_Slot(cell.request) for cell in request.cells]
        self.count = len(self.slots)
        if request.reference:
            self.slots += _references(request, context)
        apart = _apart([slot.request for slot in self.slots[self.count :]])
        names = [cell.label for cell in request.cells] + [
            f"Reference · {note}" if note else "Reference" for note in apart
        ]
        job.set_cells(
            [
                Cell(label=label, num_steps=slot.request.num_inference_steps)
                for label, slot in zip(names, self.slots, strict=True)
            ]
        )

    def run(self) -> None:
        """Every model once: its cells, then their references.

        Raises:
            Cancelled: the person stopped it; finished cells stay.
            StepwiseError: no cell could run.
        """
        requests = [slot.request for slot in self.slots]
        for model, sets in by_model(requests):
            with self._model(model, [index for indices in sets for index in indices]) as family:
                if family is not None:
                    for part in (range(self.count), range(self.count, len(self.slots))):
                        for indices in sets:
                            self._run_set([index for index in indices if index in part], family)
        problems = [slot.problem for slot in self.slots[: self.count]]
        if all(problems):
            raise problems[0]

    @contextmanager
    def _model(self, model: str, indices: Sequence[int]) -> Iterator[Family | None]:
        """The model while the context lasts; None where it cannot be had, which only its own cells suffer from."""
        with ExitStack() as leased:
            try:
                family = leased.enter_context(self.context.model(model, self.job))
            except StepwiseError as error:
                self._fail(indices, error)
                yield None
                return
            if not isinstance(family, Family):
                self._fail(
                    indices,
                    MethodFitError("This model runs through its own pipeline only: its steps cannot be compared."),
                )
                family = None
            self.job.set_status(JobStatus.RUNNING)
            yield family

    def _run_set(self, indices: Sequence[int], family: Family) -> None:
        """Cells with the same LoRAs."""
        ready = [index for index in indices if self._prepare(index, family)]
        if not ready:
            return
        requests = {index: self.slots[index].request for index in ready}
        try:
            with family.loras(self.context.load_loras(requests[ready[0]].loras)):
                for wave in waves(ready, requests, self.context.limits.max_pixels):
                    self._run_wave(wave, family)
        except StepwiseError as error:
            self._fail([index for index in ready if self.slots[index].picture is None], error)

    def _prepare(self, index: int, family: Family) -> bool:
        """Settle size and steps now that the model is known; False where the slot needs no run or cannot have one."""
        slot, job = self.slots[index], self.job
        if slot.problem is not None or (
            slot.measured and all(self.slots[cell].picture is None for cell in slot.measured)
        ):
            job.update_cell(index, num_steps=0)
            return False
        try:
            if not slot.measured and self.request.equal == "nfe":
                self._equalise(
                    index, family
                )  # first: a learned schedule is settled for the steps that the run will have
                check_orders(slot.request)
            slot.resolved = resolve(slot.request, family)
            slot.request = slot.resolved.request
        except StepwiseError as error:
            self._fail([index], error)
            return False
        if slot.measured and (kept := self.cache.get(slot.request)) is not None:
            job.update_cell(index, num_steps=0, images=kept[None], note="Kept from an earlier comparison.")
            self._measure(index, kept)
            return False
        return True

    def _equalise(self, index: int, family: Family) -> None:
        base, slot = self.request.base, self.slots[index]
        budget = evaluations(base, self.context.traits(base.model) or family.traits, family.learned)
        slot.request = equal_steps(slot.request, family.traits, budget, self.context.limits.max_steps, family.learned)
        own, steps = evaluations(slot.request, family.traits, family.learned), slot.request.num_inference_steps
        note = (
            f"{own} of {budget} evaluations."
            if own <= budget
            else f"One step takes {own} evaluations, more than the {budget} of the shared settings."
        )
        self.job.update_cell(index, num_steps=steps, note=note)

    def _run_wave(self, indices: Sequence[int], family: Family) -> None:
        runs = {}
        for index in indices:
            try:
                runs[index] = build_run(self.slots[index].resolved, family, self.job.cancelled)
            except StepwiseError as error:
                self._fail([index], error)
        order = list(runs)
        for place, step in denoise_together(list(runs.values())):
            index = order[place]
            if step.index == 0:
                self.job.update_cell(index, num_steps=step.num_steps)  # its start may have spared some
            record(self.job, index, step, family)
            if step.index + 1 == step.num_steps:
                self._finish(index, decode(family, step.latents)[0], step.evaluations, step.seconds)

    def _finish(self, index: int, picture: np.ndarray, evaluations: int, seconds: float) -> None:
        """Show and store a finished picture at once, so that no later stop can lose it."""
        slot = self.slots[index]
        slot.picture = picture
        figures = {"evaluations": evaluations, "seconds": seconds}
        if slot.measured:
            self.cache.put(slot.request, picture)
            self.job.update_cell(index, images=picture[None], figures=figures)
            self._measure(index, picture)
            return
        self.job.update_cell(index, images=picture[None], figures=figures)
        try:
            stored = {**figures, "comparison": self.request.to_json()}
            result = self.context.save_picture(picture, slot.request, self.job, index=index, figures=stored)
            self.job.update_cell(index, results=(result,))
        except StoreError as error:
            self.job.update_cell(index, note=str(error))

    def _measure(self, index: int, reference: np.ndarray) -> None:
        figures = [cell.figures for cell in self.job.view().cells]
        for cell in self.slots[index].measured:
            if (picture := self.slots[cell].picture) is not None:
                self.job.update_cell(cell, figures={**figures[cell], **likeness(picture, reference)})

    def _fail(self, indices: Sequence[int], error: StepwiseError) -> None:
        for index in indices:
            _LOG.info("job %s, cell %s failed: %s", self.job.id, index, error)
            self.slots[index].problem = error
            self.job.update_cell(index, num_steps=len(self.job.view().cells[index].rows), note=str(error))

    def outcome(self) -> dict[str, Any]:
        """The comparison as plain values: settings, one row a cell, and the axes of a grid."""
        request, cells = self.request, self.job.view().cells
        axes = [
            {
                "field": axis.field,
                "label": axis.label,
                "values": [self._value(axis.field, value) for value in axis.values],
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
            "models": [self.context.catalog[model].label for model in sorted(models)],
            "reference_steps": request.reference_steps if request.reference else None,
            "rows": [self._row(index, cells[index]) for index in range(self.count)],
        }

    def _value(self, field: str, value: Any) -> str:
        return self.context.catalog[value].label if field == "model" else axis_value(field, value)

    def _row(self, index: int, cell: Cell) -> dict[str, Any]:
        slot, last = self.slots[index], cell.rows[-1] if cell.rows else None
        decibels = cell.figures.get("psnr")
        return {
            "cell": index + 1,
            "label": cell.label,
            "settings": slot.request.to_json(),
            "steps": len(cell.rows),
            "evaluations": last.evaluations if last else 0,
            "seconds": last.seconds if last else 0.0,
            "psnr": decibels if decibels is not None and math.isfinite(decibels) else None,
            "ssim": cell.figures.get("ssim"),
            "identical": decibels == math.inf,
            "result": cell.results[0] if cell.results else None,
            "problem": str(slot.problem) if slot.problem else "",
        }


def _references(request: ComparisonRequest, context: TaskContext) -> list[_Slot]:
    """One slot for each distinct long run that the cells are measured against."""
    wanted: dict[Request, list[int]] = {}
    for index, cell in enumerate(request.cells):
        traits = context.traits(cell.request.model)
        flow = traits is not None and traits.flow
        wanted.setdefault(reference_of(cell.request, flow, request.reference_steps), []).append(index)
    return [_Slot(reference, tuple(measured)) for reference, measured in wanted.items()]


def _apart(references: Sequence[Request]) -> list[str]:
    """What tells the references from each other; nothing for a single one."""
    return labels(references) if len(references) > 1 else [""] * len(references)

"""The cells of a comparison, those of one model together, and the long runs that they are measured against."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.errors import MethodFitError, StepwiseError, StoreError
from pipelines.core.loop import Run, denoise_together
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.initializations.fitted import fitted_folder
from pipelines.models.extras import Extras
from pipelines.requests.encoding import decode
from pipelines.requests.fitted import check_start
from pipelines.requests.limits import check_orders
from pipelines.requests.reference import ReferenceCache, likeness, reference_of
from pipelines.requests.step_pictures import with_pictures
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.workflows.compare.labels import labels
from pipelines.workflows.compare.request import ComparisonRequest, by_model, equal_steps, evaluations, waves
from studio.jobs.job import Cell, Job, JobStatus
from studio.tasks.extras import give_pictures
from studio.tasks.recording import KEPT_BYTES, note_decoding, record
from studio.tasks.runs.compare_outcome import Slot, build_outcome
from studio.tasks.runs.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["parse", "run"]

_LOG = logging.getLogger("stepwise.compare")


class _Comparing:
    """One comparison in the worker thread: the job's cells, and behind them the references."""

    def __init__(self, request: ComparisonRequest, job: Job, context: TaskContext, cache: ReferenceCache):
        self.request, self.job, self.context, self.cache = request, job, context, cache
        self.slots = [Slot(cell.request) for cell in request.cells]
        self.count = len(self.slots)
        if request.reference:
            self.slots += _list_references(request, context)
        notes = _label_references([slot.request for slot in self.slots[self.count :]])
        names = [cell.label for cell in request.cells] + [
            f"Reference · {note}" if note else "Reference" for note in notes
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
        for (model, extras), sets in by_model(requests):
            with self._lease_model(model, extras, [index for indices in sets for index in indices]) as family:
                if family is not None:
                    for part in (range(self.count), range(self.count, len(self.slots))):
                        for indices in sets:
                            self._run_set([index for index in indices if index in part], family)
        problems = [slot.problem for slot in self.slots[: self.count] if slot.problem is not None]
        if len(problems) == self.count:
            raise problems[0]

    @contextmanager
    def _lease_model(self, model: str, extras: Extras, indices: Sequence[int]) -> Iterator[Family | None]:
        """The model while the context lasts; None where it cannot be had, which only its own cells suffer from."""
        with ExitStack() as leases:
            try:
                lent = leases.enter_context(self.context.model(model, self.job, extras))
            except StepwiseError as error:
                self._fail(indices, error)
                yield None
                return
            family = lent if isinstance(lent, Family) else None
            if family is None:
                self._fail(
                    indices,
                    MethodFitError("This model runs through its own pipeline only: its steps cannot be compared."),
                )
            else:
                give_pictures(family, [self.slots[index].request for index in indices], self.context)
            self.job.set_status(JobStatus.RUNNING)
            yield family

    def _run_set(self, indices: Sequence[int], family: Family) -> None:
        """Cells with the same LoRAs."""
        prepared = [index for index in indices if self._prepare(index, family)]
        if not prepared:
            return
        requests = {index: self.slots[index].request for index in prepared}
        try:
            with family.loras(self.context.load_loras(requests[prepared[0]].loras)):
                for wave in waves(prepared, requests, self.context.limits.max_pixels):
                    self._run_wave(wave, family)
        except StepwiseError as error:
            self._fail([index for index in prepared if self.slots[index].picture is None], error)

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
                self._equalize_evaluations(
                    index, family
                )  # first: a learned schedule is settled for the steps that the run will have
                check_orders(slot.request)
            check_start(slot.request, fitted_folder(slot.request.model, self.context.catalog.folder))
            slot.resolved = resolve(slot.request, family)
            slot.request = slot.resolved.request
        except StepwiseError as error:
            self._fail([index], error)
            return False
        if slot.measured and (cached := self.cache.get((self.job.owner, slot.request))) is not None:
            job.update_cell(index, num_steps=0, note="Reused from an earlier comparison.")
            job.update_cell(index, images=self._release(index, cached))
            self._measure(index, cached)
            return False
        return True

    def _equalize_evaluations(self, index: int, family: Family) -> None:
        base, slot = self.request.base, self.slots[index]
        budget = evaluations(base, self.context.traits(base.model) or family.traits, family.learned)
        slot.request = equal_steps(slot.request, family.traits, budget, self.context.limits.max_steps, family.learned)
        nfe, steps = evaluations(slot.request, family.traits, family.learned), slot.request.num_inference_steps
        if nfe == budget:
            note = ""
        elif nfe < budget:
            note = f"{nfe} of {budget} evaluations."
        else:
            note = f"One step takes {nfe} evaluations, more than the {budget} of the shared settings."
        self.job.update_cell(index, num_steps=steps, note=note)

    def _run_wave(self, indices: Sequence[int], family: Family) -> None:
        runs = {}
        for index in indices:
            resolved = self.slots[index].resolved
            if resolved is None:  # it failed before
                continue
            try:
                runs[index] = build_run(resolved, family, self.job.cancelled)
            except StepwiseError as error:
                self._fail([index], error)
        try:
            self._walk(runs, family)
        except StepwiseError as error:
            unfinished = [index for index in runs if self.slots[index].picture is None]
            if len(runs) == 1:
                self._fail(unfinished, error)
                return
            # Which one broke cannot be told: each is walked anew alone, so that it loses only itself.
            for index in unfinished:
                self.job.update_cell(index, rows=[], frames=[])
                self._run_wave([index], family)

    def _walk(self, runs: Mapping[int, Run], family: Family) -> None:
        """Walk runs together, and finish each as it ends."""
        order = list(runs)
        steps = denoise_together(list(runs.values()))
        for place, step, pictures in with_pictures(steps, [family] * len(runs), KEPT_BYTES):
            index = order[place]
            if step.index == 0:
                self.job.update_cell(index, num_steps=step.num_steps)  # its initialization may skip some
            record(self.job, index, step, pictures)
            if step.index + 1 == step.num_steps:
                picture = decode(family, step.latents)[0]
                note_decoding(self.job, index, family)
                self._finish(index, picture, step.evaluations, step.seconds)

    def _finish(self, index: int, picture: np.ndarray, evaluations: float, seconds: float) -> None:
        """Show and store a finished picture at once, so that no later stop can lose it."""
        slot = self.slots[index]
        slot.picture = picture
        figures: dict[str, Any] = {"evaluations": round(evaluations, 3), "seconds": seconds}
        if slot.measured:
            self.cache.put((self.job.owner, slot.request), picture)
            self.job.update_cell(index, images=self._release(index, picture), figures=figures)
            self._measure(index, picture)
            return
        self.job.update_cell(index, images=self._release(index, picture), figures=figures)
        self._measure_caches(index)
        try:
            metadata = {**figures, "comparison": self.request.to_json()}
            result = self.context.save_picture(picture, slot.request, self.job, index=index, figures=metadata)
            self.job.update_cell(index, results=(result,))
        except StoreError as error:
            self.job.update_cell(index, note=str(error))

    def _measure_caches(self, index: int) -> None:
        """Measure what a cache cost: a cell with one against the cell that is the same without."""
        uncached = self.slots[index].request.replace(cache=Request.cache)
        alike = [other for other in range(self.count) if self._is_finished_form_of(other, uncached)]
        whole = next((other for other in alike if self.slots[other].request == uncached), None)
        if whole is None or (reference := self.slots[whole].picture) is None:
            return
        figures = [cell.figures for cell in self.job.view().cells]
        for other in alike:
            if other != whole and (picture := self.slots[other].picture) is not None:
                decibels = likeness(picture, reference)["psnr"]
                self.job.update_cell(other, figures={**figures[other], "uncached_psnr": decibels})

    def _is_finished_form_of(self, index: int, uncached: Request) -> bool:
        slot = self.slots[index]
        return slot.picture is not None and slot.request.replace(cache=Request.cache) == uncached

    def _release(self, index: int, picture: np.ndarray) -> np.ndarray:
        return self.context.release_pictures(picture[None], self.slots[index].request.model, self.job, index)

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


def _list_references(request: ComparisonRequest, context: TaskContext) -> list[Slot]:
    """One slot for each distinct long run that the cells are measured against."""
    cells_by_reference: dict[Request, list[int]] = {}
    for index, cell in enumerate(request.cells):
        traits = context.traits(cell.request.model)
        flow = traits is not None and traits.flow
        cells_by_reference.setdefault(reference_of(cell.request, flow, request.reference_steps), []).append(index)
    return [Slot(reference, tuple(measured)) for reference, measured in cells_by_reference.items()]


def _label_references(references: Sequence[Request]) -> list[str]:
    """What tells the references from each other; nothing for a single one."""
    return labels(references) if len(references) > 1 else [""] * len(references)


def parse(values: Mapping[str, object], context: TaskContext) -> ComparisonRequest:
    """Read untrusted values: see `Task.parse`."""
    return ComparisonRequest.parse(
        values,
        lambda plain: parse_request(plain, context, steered=True, composed=True, begins=True),
        context.limits,
        context.traits,
    )


def run(request: ComparisonRequest, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job: see `Task.run`."""
    comparing = _Comparing(request, job, context, context.caches.get("compare", ReferenceCache))
    try:
        comparing.run()
    finally:
        job.set_outcome(build_outcome(request, comparing.slots[: comparing.count], job, context))

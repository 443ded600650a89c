"""Samplers' errors to a long run from the same noise, budget by budget."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.core.loop import denoise
from pipelines.families.base import Family
from pipelines.requests.encoding import decode
from pipelines.requests.extras import find_extras
from pipelines.requests.limits import check_fit
from pipelines.requests.reference import reference_of
from pipelines.requests.step_pictures import one_step_late
from pipelines.requests.text_to_image import resolve_size
from pipelines.workflows.convergence import (
    ConvergenceRequest,
    Finished,
    Impossible,
    Settled,
    plan_runs,
    reference_run,
    relative_error,
    sampler_label,
    select_feasible,
    walked,
)
from studio.jobs.job import Cell, Frame, Job, JobStatus, StepRow
from studio.tasks.own_loop import refuse_stock, require_own_loop
from studio.tasks.runs.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["parse", "run"]

_STOCK = ": its samplers cannot be compared."

_NO_PICTURE = np.zeros((1, 1, 1, 3), np.uint8)


class _References:
    """Last latents of long runs by who asked and the request; the oldest go first.

    Args:
        capacity: runs kept.
    """

    def __init__(self, capacity: int = 8):
        self._capacity = capacity
        self._latents: OrderedDict[Hashable, torch.Tensor] = OrderedDict()

    def get(self, key: Hashable) -> torch.Tensor | None:
        """The latents (1, C, h, w), if they are still here."""
        return self._latents.get(key)

    def put(self, key: Hashable, latents: torch.Tensor) -> None:
        """Keep latents, and let older ones go."""
        self._latents[key] = latents
        while len(self._latents) > self._capacity:
            self._latents.popitem(last=False)


class _Measuring:
    """One convergence view in the worker thread: a cell a sampler, and one for the reference."""

    def __init__(
        self,
        request: ConvergenceRequest,
        points: tuple[list[list[Settled]], list[Impossible]],
        job: Job,
        family: Family,
        references: _References,
    ):
        self.request, self.job, self.family, self.references = request, job, family, references
        self.groups, self.impossible = points
        self.labels = [sampler_label(sampler) for sampler in request.samplers]
        self.points: list[dict[str, Any]] = []
        counts = [
            sum(point.series == index for group in self.groups for point in group) for index in range(len(self.labels))
        ]
        job.set_cells(
            [Cell(label=label, num_steps=count) for label, count in zip(self.labels, counts, strict=True)]
            + [Cell(label="Reference", num_steps=request.reference_steps)]
        )

    def run(self) -> None:
        """The reference, then every budget's runs together."""
        self._report()
        self.job.set_status(JobStatus.RUNNING, "The reference")
        reference = self._run_reference()
        self.job.set_status(JobStatus.RUNNING)
        for group in self.groups:
            for finished in walked(group, self.family, self.job.cancelled):
                self._add(finished, reference)
                self._report()

    def _run_reference(self) -> torch.Tensor:
        place = len(self.labels)
        reference = reference_of(self.request.base, self.family.traits.flow, self.request.reference_steps)
        key = (self.job.owner, reference)  # what one person ran is never used for another
        if (cached := self.references.get(key)) is not None:
            self.job.update_cell(place, num_steps=0, note="Reused from an earlier measurement.")
            return cached
        steps = denoise(reference_run(self.request, self.family, self.job.cancelled))
        for step in one_step_late(steps, [self.family]):
            row = StepRow(step.index, step.next_level.sigma_ve, step.level.timestep, step.evaluations, step.seconds)
            self.job.add_step(place, row, Frame(_NO_PICTURE, _NO_PICTURE))
        self.references.put(key, step.latents)
        return step.latents

    def _add(self, finished: Finished, reference: torch.Tensor) -> None:
        """One point: its error, and where its time went."""
        step, point = finished.step, finished.point
        began = time.perf_counter()
        self.family.preview(step.denoised)
        previewed = time.perf_counter()
        decode(self.family, step.latents)
        decoded = time.perf_counter()
        self.points.append(
            {
                "sampler": point.series,
                "label": self.labels[point.series],
                "evaluations": step.evaluations,
                "steps": step.num_steps,
                "error": relative_error(step.latents, reference),
                "seconds": {
                    "network": finished.network_seconds,
                    "own": finished.own_seconds,
                    "preview": (previewed - began) * step.num_steps,
                    "decode": decoded - previewed,
                },
            }
        )
        num_done = sum(entry["sampler"] == point.series for entry in self.points)
        row = StepRow(num_done - 1, 0.0, 0.0, step.evaluations, step.seconds)
        self.job.add_step(point.series, row, Frame(_NO_PICTURE, _NO_PICTURE))

    def _report(self) -> None:
        base = self.request.base
        self.job.set_outcome(
            {
                "kind": "convergence",
                "prompt": base.prompt,
                "seed": base.seed,
                "schedule": base.schedule.to_json(),
                "reference_steps": self.request.reference_steps,
                "labels": self.labels,
                "points": list(self.points),
                "left_out": [
                    {
                        "sampler": entry.series,
                        "label": self.labels[entry.series],
                        "steps": entry.num_inference_steps,
                        "reason": entry.reason,
                    }
                    for entry in self.impossible
                ],
            }
        )


def parse(values: Mapping[str, object], context: TaskContext) -> ConvergenceRequest:
    """Read untrusted values: see `Task.parse`."""
    request = ConvergenceRequest.parse(
        values, lambda plain: parse_request(plain, context, begins=True), context.traits, context.limits
    )
    refuse_stock(context.catalog[request.base.model], _STOCK)
    return request


def run(request: ConvergenceRequest, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job: see `Task.run`."""
    with context.model(request.base.model, job, find_extras(request.base)) as loaded:
        family = require_own_loop(loaded, _STOCK)
        # The size alone: whether the schedule serves a run is a matter of each point's sampler and steps.
        base = resolve_size(request.base, family)
        resolved = dataclasses.replace(request, base=base)
        for sampler in request.samplers:
            check_fit(resolved.base.replace(sampler=sampler), family.traits)
        points = select_feasible(plan_runs(resolved, family.traits, context.limits.max_steps, family.learned), family)
        with family.loras(context.load_loras(resolved.base.loras)):
            _Measuring(resolved, points, job, family, context.caches.get("convergence", _References)).run()

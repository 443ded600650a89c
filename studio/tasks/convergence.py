"""The task behind the convergence view, the /convergence endpoint and `python -m studio convergence`."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.core.errors import MethodFitError
from pipelines.core.loop import denoise
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.requests.limits import check_fit
from pipelines.requests.reference import reference_of
from pipelines.requests.text_to_image import decode, resolve_size
from pipelines.workflows.convergence import (
    ConvergenceRequest,
    Finished,
    Impossible,
    Planned,
    planned,
    possible,
    reference_run,
    relative_error,
    sampler_label,
    walked,
)
from studio.jobs.job import Cell, Frame, Job, JobStatus, StepRow
from studio.tasks.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["Convergence", "left_out_words"]

_NO_PICTURE = np.zeros((1, 1, 1, 3), np.uint8)


class Convergence:
    """Measure samplers against a long run from the same noise, budget by budget; every point shows as it comes."""

    key = "convergence"

    def parse(self, values: Mapping[str, Any], context: TaskContext) -> ConvergenceRequest:
        return ConvergenceRequest.parse(values, lambda plain: parse_request(plain, context), context.traits)

    def run(self, request: ConvergenceRequest, job: Job, context: TaskContext) -> None:
        with context.model(request.base.model, job) as family:
            if not isinstance(family, Family):
                raise MethodFitError("This model runs through its own pipeline only: its samplers cannot be compared.")
            # The size alone: whether the schedule serves a run is a matter of each point's sampler and steps.
            base = resolve_size(request.base, family)
            resolved = dataclasses.replace(request, base=base)
            for sampler in request.samplers:
                check_fit(resolved.base.replace(sampler=sampler), family.traits)
            points = possible(planned(resolved, family.traits, context.limits.max_steps, family.learned), family)
            with family.loras(context.load_loras(resolved.base.loras)):
                _Measuring(resolved, points, job, family, context.caches.get(self.key, _References)).run()


class _References:
    """Last latents of long runs by request; the oldest go first.

    Args:
        most: runs kept.
    """

    def __init__(self, most: int = 8):
        self._most = most
        self._latents: OrderedDict[Request, torch.Tensor] = OrderedDict()

    def get(self, request: Request) -> torch.Tensor | None:
        """The latents (1, C, h, w), if they are still here."""
        return self._latents.get(request)

    def put(self, request: Request, latents: torch.Tensor) -> None:
        """Keep latents, and let older ones go."""
        self._latents[request] = latents
        while len(self._latents) > self._most:
            self._latents.popitem(last=False)


class _Measuring:
    """One convergence view in the worker thread: a cell a sampler, and one for the reference."""

    def __init__(
        self,
        request: ConvergenceRequest,
        points: tuple[list[list[Planned]], list[Impossible]],
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
        self._tell()
        self.job.set_status(JobStatus.RUNNING, "The reference")
        wanted = self._reference()
        self.job.set_status(JobStatus.RUNNING)
        for group in self.groups:
            for finished in walked(group, self.family, self.job.cancelled):
                self._add(finished, wanted)
                self._tell()

    def _reference(self) -> torch.Tensor:
        place = len(self.labels)
        key = reference_of(self.request.base, self.family.traits.flow, self.request.reference_steps)
        if (kept := self.references.get(key)) is not None:
            self.job.update_cell(place, num_steps=0, note="Kept from an earlier view.")
            return kept
        for step in denoise(reference_run(self.request, self.family, self.job.cancelled)):
            row = StepRow(step.index, step.next_level.sigma_ve, step.level.timestep, step.evaluations, step.seconds)
            self.job.add_step(place, row, Frame(_NO_PICTURE, _NO_PICTURE))
        self.references.put(key, step.latents)
        return step.latents

    def _add(self, finished: Finished, wanted: torch.Tensor) -> None:
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
                "error": relative_error(step.latents, wanted),
                "seconds": {
                    "network": finished.network_seconds,
                    "own": finished.own_seconds,
                    "preview": (previewed - began) * step.num_steps,
                    "decode": decoded - previewed,
                },
            }
        )
        done = sum(one["sampler"] == point.series for one in self.points)
        row = StepRow(done - 1, 0.0, 0.0, step.evaluations, step.seconds)
        self.job.add_step(point.series, row, Frame(_NO_PICTURE, _NO_PICTURE))

    def _tell(self) -> None:
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
                        "sampler": one.series,
                        "label": self.labels[one.series],
                        "steps": one.num_inference_steps,
                        "reason": one.reason,
                    }
                    for one in self.impossible
                ],
            }
        )


def left_out_words(outcome: Mapping[str, Any]) -> str:
    """Which planned points the schedule does not serve, and why the first; empty where it serves all."""
    steps: dict[str, list[int]] = {}
    for one in outcome.get("left_out", ()):
        steps.setdefault(one["label"], []).append(one["steps"])
    if not steps:
        return ""
    told = "; ".join(
        f"{label} at {', '.join(map(str, counts))} step{'s' * (counts != [1])}" for label, counts in steps.items()
    )
    return f"Left out, since the schedule does not serve them: {told}. {outcome['left_out'][0]['reason']}"

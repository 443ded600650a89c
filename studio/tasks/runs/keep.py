"""A quantized model, made again if it is gone and written into the models folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import UnknownMethodError
from pipelines.core.types import Choice
from pipelines.models.quantization_folder import plain_choice, quantized_entry
from pipelines.quantizers import require_runs, this_machine
from studio.jobs.job import Job, JobStatus

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["KeepRequest", "parse", "run"]


@dataclasses.dataclass(frozen=True)
class KeepRequest:
    """Says which quantized model to keep: the key of the one in full precision, and the method."""

    model: str
    variant: Choice


def parse(values: Mapping[str, Any], context: TaskContext) -> KeepRequest:
    """Read untrusted values: see `Task.parse`."""
    known_names = [field.name for field in dataclasses.fields(KeepRequest)]
    if unknown := [name for name in values if name not in known_names]:
        raise UnknownMethodError("setting of a model to keep", unknown[0], known_names)
    context.require_keeping()
    request = KeepRequest(values.get("model", ""), plain_choice(Choice.parse(values.get("variant", ""))))
    require_runs(request.variant, this_machine(context.device))
    quantized_entry(context.catalog[request.model], request.variant)
    return request


def run(request: KeepRequest, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job: see `Task.run`."""
    label = quantized_entry(context.catalog[request.model], request.variant).label
    job.set_status(JobStatus.LOADING, f"Saving {label}")
    key = context.keep_quantized(request.model, request.variant, job.cancelled)
    job.set_outcome({"key": key})

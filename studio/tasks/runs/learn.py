"""The fit of a schedule to a model, a sampler and a number of steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.registry import parse_settings
from pipelines.core.types import Choice, is_text
from pipelines.learning.fitting import learn
from pipelines.learning.request import (
    LEARNERS,
    PROMPTS,
    LearnRequest,
    PictureSettings,
    Progress,
    require_fit,
    require_learnable,
)
from pipelines.requests.prompts import require_one_text
from pipelines.requests.refusals import require_own_parts
from pipelines.requests.text_to_image import resolve
from pipelines.schedules.learned_file import write_learned
from studio.jobs.job import Cell, Frame, Job, JobStatus, StepRow
from studio.tasks.own_loop import refuse_stock, require_own_loop
from studio.tasks.runs.text_to_image import parse_request
from studio.tasks.schedules_folder import get_schedules_folder

if TYPE_CHECKING:
    from pipelines.requests.limits import Limits
    from studio.tasks.context import TaskContext

__all__ = ["parse", "run"]

_STOCK = ": no schedule can be fitted to it."

_NO_PICTURE = np.zeros((1, 1, 1, 3), np.uint8)


def _require_object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingsError(f"The {name} of a fit is {str(value)[:80]!r}. Give an object of settings.")
    return value


def _parse_prompts(value: object, limits: Limits) -> tuple[str, ...]:
    """The prompts in a list, or in a text with a prompt a line."""
    lines = value.splitlines() if isinstance(value, str) else value
    if not isinstance(lines, (list, tuple)) or not all(map(is_text, lines)):
        raise SettingsError(f"The prompts of a fit are {str(value)[:80]!r}. Give a list of texts, or one a line.")
    prompts = tuple(line.strip() for line in lines if line.strip())
    if len(prompts) > limits.max_prompts:
        raise SettingsError(f"{len(prompts)} prompts are given. This server takes at most {limits.max_prompts}.")
    return prompts


def parse(values: Mapping[str, object], context: TaskContext) -> LearnRequest:
    """Read untrusted values: see `Task.parse`."""
    known_names = ("base", "learner", "pictures", "prompts")
    for name in values:
        if name not in known_names:
            raise UnknownMethodError("setting of a fit", name, known_names)
    prompts = _parse_prompts(values.get("prompts", ()), context.limits)
    base = _require_object(values.get("base", {}), "base")
    # Only what belongs to a run is taken; which pictures are made is the fit's own.
    request = parse_request(
        {**base, "prompt": (prompts or PROMPTS)[0], "schedule": "uniform", "batch_size": 1, "loras": []}, context
    )
    for prompt in prompts:
        require_one_text(prompt, request.negative_prompt, "Fits")
    learner = Choice.parse(values.get("learner", "ld3"))
    parse_settings(LEARNERS[learner.key].settings, learner.settings, LEARNERS[learner.key].label)
    refuse_stock(context.catalog[request.model], _STOCK)
    require_learnable(request)
    require_own_parts(request, "A fit")
    pictures = parse_settings(PictureSettings, _require_object(values.get("pictures", {}), "pictures"), "Pictures")
    fit = LearnRequest(request, learner, pictures, prompts)
    require_fit(fit)
    return fit


def run(request: LearnRequest, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job: see `Task.run`."""
    job.set_cells([Cell(label=LEARNERS[request.learner.key].label)])
    with context.model(request.base.model, job) as loaded:
        family = require_own_loop(loaded, _STOCK)
        base = resolve(request.base, family).request
        fit = LearnRequest(base, request.learner, request.pictures, request.prompts)
        for progress in learn(fit, family, job.cancelled):
            _report(progress, base.to_json(), job, context)


def _report(progress: Progress, base: Mapping[str, object], job: Job, context: TaskContext) -> None:
    """Put a round into the job."""
    job.set_status(
        JobStatus.RUNNING,
        f"{progress.stage}: round {progress.done} of {progress.total}" if progress.curve else progress.stage,
    )
    job.update_cell(0, num_steps=progress.total + 1 if progress.curve else 0)
    outcome = {
        "kind": "learn",
        "request": dict(base),
        "learner": job.request.learner.key,
        "curve": list(progress.curve),
    }
    if progress.learned is not None:
        write_learned(progress.learned, get_schedules_folder(context))
        outcome["name"], outcome["schedule"] = progress.learned.name, progress.learned.to_json()
    elif progress.curve:
        row = StepRow(progress.done, 0.0, 0.0, 0, job.view().seconds)
        job.add_step(0, row, Frame(_NO_PICTURE, _NO_PICTURE))
    job.set_outcome(outcome)

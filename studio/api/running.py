"""How an endpoint runs a job: the same task, the same checks and the same queue as the page's."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import gradio as gr
from starlette.requests import HTTPConnection

from pipelines.core.errors import StepwiseError, StoreError
from studio.jobs.stream import follow
from studio.media.live_image import encode_picture_url
from studio.safety.owner import derive_owner
from studio.tasks.seeds import get_seed

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.jobs.job import Job, View

__all__ = ["describe_file", "describe_previews", "describe_progress", "describe_results", "run_task"]


def describe_progress(view: "View", job: "Job") -> dict[str, Any]:
    """Return what an endpoint reports while a job runs: plain numbers, no pictures."""
    return {
        "job": job.id,
        "status": view.status.value,
        "message": view.message,
        "position": view.position,
        "step": sum(len(cell.rows) for cell in view.cells),
        "num_steps": sum(cell.num_steps for cell in view.cells),
        "seconds": round(view.seconds, 3),
        "seconds_left": view.seconds_left,
        "seed": get_seed(job.request),
        "images": [],
        "cells": [],
        **_describe_search(view),
    }


def _describe_search(view: "View") -> dict[str, Any]:
    """How far a search is; nothing for a run without one."""
    if (population := view.population) is None:
        return {}
    best = {"name": population.best.name, "reward": population.best.reward}
    spent = {"evaluations": population.spent, "budget": population.budget}
    return {"search": {**spent, "judged": population.judged, "best": best}}


def describe_results(view: "View", job: "Job", studio: "Studio") -> dict[str, Any]:
    """Return what an endpoint answers at the end: the pictures as files, and each cell's figures."""
    cells = [
        {"label": cell.label, "results": list(cell.results), "figures": dict(cell.figures), "note": cell.note}
        for cell in view.cells
    ]
    files = [describe_file(studio, result) for cell in view.cells for result in cell.results]
    images = [file for file in files if file is not None]
    return {**describe_progress(view, job), "images": images, "cells": cells, "outcome": dict(view.outcome)}


def describe_file(studio: "Studio", result: str) -> dict[str, Any] | None:
    """Describe a stored result as Gradio sends a file: with its path, since gradio_client fetches no other; None where
    it was deleted meanwhile."""
    try:
        record = studio.store.get(result)
    except StoreError:
        return None
    if record.trashed is not None:
        return None
    path = record.path
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def describe_previews(view: "View") -> list[dict[str, Any]]:
    """The latest step of each cell that has one, as the page shows it: small pictures as data URLs, one for each
    picture of the batch."""
    return [
        {
            "cell": index,
            "step": len(cell.frames),
            "noisy": [encode_picture_url(picture) for picture in cell.frames[-1].noisy],
            "denoised": [encode_picture_url(picture) for picture in cell.preview],
        }
        for index, cell in enumerate(view.cells)
        if cell.frames
    ]


def run_task(
    studio: "Studio", task: str, values: dict[str, Any], request: gr.Request, previews: bool = False
) -> Iterator[dict[str, Any]]:
    """Submit a job and follow it: progress while it runs, its results at the end.

    Args:
        request: of the program, which decides whose job it is.
        previews: whether the progress has the pictures of the latest step.

    Raises: gr.Error with the sentence for the person, when the request is refused or the job fails.
    """
    try:
        scope = cast(HTTPConnection, request.request).scope  # Gradio declares that there may be none
        job = studio.submit(task, values, derive_owner(scope, request.session_hash or ""))
        for view in follow(job):
            if not view.status.final:
                pictures = {"previews": describe_previews(view)} if previews else {}
                yield {**describe_progress(view, job), **pictures}
        if view.status.value == "failed":
            raise gr.Error(view.message, print_exception=False)
        yield describe_results(view, job, studio)
    except StepwiseError as error:
        raise gr.Error(str(error), print_exception=False) from None

"""How an endpoint runs a job: the same task, the same checks and the same queue as the page's."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.jobs.stream import follow
from studio.safety.owner import owner_of

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.jobs.job import View

__all__ = ["fields", "file_of", "progress_of", "results_of", "run_task"]


def fields(settings: Any, name: str = "settings") -> dict[str, Any]:
    """The fields of an argument that must be an object; nothing was checked before.

    Raises: gr.Error with the sentence for the person, when it is something else.
    """
    if not isinstance(settings, dict):
        raise gr.Error(f"{name} is {str(settings)[:80]!r}, and must be an object of fields.", print_exception=False)
    return settings


def progress_of(view: "View", job_id: str) -> dict[str, Any]:
    """What an endpoint says while a job runs: plain numbers, no pictures."""
    return {
        "job": job_id,
        "status": view.status.value,
        "message": view.message,
        "position": view.position,
        "step": sum(len(cell.rows) for cell in view.cells),
        "num_steps": sum(cell.num_steps for cell in view.cells),
        "seconds": round(view.seconds, 3),
        "seconds_left": view.seconds_left,
        "images": [],
        "cells": [],
    }


def results_of(view: "View", job_id: str, studio: "Studio") -> dict[str, Any]:
    """What an endpoint returns at the end: the pictures as files, and each cell's figures."""
    cells = [
        {"label": cell.label, "results": list(cell.results), "figures": dict(cell.figures), "note": cell.note}
        for cell in view.cells
    ]
    images = [file_of(studio, result) for cell in view.cells for result in cell.results]
    return {**progress_of(view, job_id), "images": images, "cells": cells, "outcome": dict(view.outcome)}


def file_of(studio: "Studio", result: str) -> dict[str, Any]:
    """A stored result as Gradio sends a file: with its path, since gradio_client fetches no other."""
    path = studio.store.get(result).path
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def run_task(studio: "Studio", task: str, values: dict[str, Any], request: gr.Request) -> Iterator[dict[str, Any]]:
    """Submit a job and follow it: progress while it runs, its results at the end.

    Args:
        request: of the program, which decides whose job it is.

    Raises: gr.Error with the sentence for the person, when the request is refused or the job fails.
    """
    try:
        job = studio.submit(task, values, owner_of(request.request.scope, request.session_hash or ""))
        for view in follow(job):
            if not view.status.final:
                yield progress_of(view, job.id)
        if view.status.value == "failed":
            raise gr.Error(view.message, print_exception=False)
        yield results_of(view, job.id, studio)
    except StepwiseError as error:
        raise gr.Error(str(error), print_exception=False) from None

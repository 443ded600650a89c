"""Named endpoints for programs: the same tasks, the same checks and the same queue as the page's.

Each task of the table that has an endpoint makes its own; the others are one file and one line in `ENDPOINTS` each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from studio.api import cancel, gallery, gallery_change, models, models_change
from studio.api.running import describe_progress, describe_results
from studio.api.task import build_task_endpoint
from studio.tasks import TASKS

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["ENDPOINTS", "NamedEndpoint", "attach", "describe_progress", "describe_results"]

JOBS: Mapping[str, Any] = {"concurrency_limit": None}  # the engine's own queue decides who runs
LISTS: Mapping[str, Any] = {"concurrency_limit": 4}


class NamedEndpoint(NamedTuple):
    """Says what makes an endpoint's function for a studio, and how Gradio runs it."""

    make: Callable[[Studio], Callable]
    options: Mapping[str, Any]


ENDPOINTS: Mapping[str, NamedEndpoint] = {
    **{
        task.endpoint.name: NamedEndpoint(
            functools.partial(build_task_endpoint, task=task.key, endpoint=task.endpoint), JOBS
        )
        for task in TASKS.values()
        if task.endpoint
    },
    "gallery": NamedEndpoint(gallery.endpoint, LISTS),
    "gallery_change": NamedEndpoint(gallery_change.endpoint, LISTS),
    "models": NamedEndpoint(models.endpoint, LISTS),
    "models_change": NamedEndpoint(models_change.endpoint, LISTS),
    "cancel": NamedEndpoint(cancel.endpoint, {"queue": False}),
}


def attach(studio: Studio) -> None:
    """Add the endpoints to the Blocks that are being built."""
    for name, endpoint in ENDPOINTS.items():
        gr.api(endpoint.make(studio), api_name=name, **endpoint.options)

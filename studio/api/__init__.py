"""Named endpoints for programs: the same tasks, the same checks and the same queue as the page's.

One file an endpoint, one line in `ENDPOINTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.api import (
    animate,
    cancel,
    compare,
    convergence,
    edit,
    gallery,
    gallery_change,
    generate,
    learn,
    models,
    models_change,
    quantize,
)
from studio.api.running import progress_of, results_of

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["ENDPOINTS", "attach", "progress_of", "results_of"]

JOBS: Mapping[str, Any] = {"concurrency_limit": None}  # the engine's own queue decides who runs
LISTS: Mapping[str, Any] = {"concurrency_limit": 4}

ENDPOINTS: Mapping[ModuleType, Mapping[str, Any]] = {
    generate: JOBS,
    compare: JOBS,
    convergence: JOBS,
    edit: JOBS,
    animate: JOBS,
    quantize: JOBS,
    learn: JOBS,
    gallery: LISTS,
    gallery_change: LISTS,
    models: LISTS,
    models_change: LISTS,
    cancel: {"queue": False},
}


def attach(studio: Studio) -> None:
    """Add the endpoints to the Blocks that are being built."""
    for module, options in ENDPOINTS.items():
        gr.api(module.endpoint(studio), api_name=module.__name__.rpartition(".")[2], **options)

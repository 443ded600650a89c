"""`/animate`: a clip."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr

from studio.api.running import fields, run_task

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["endpoint"]


def endpoint(studio: "Studio") -> Callable:
    """The function that Gradio offers to programs, with its annotations and docstring."""

    def animate(prompt: str, request: gr.Request, settings: dict = {}) -> dict:
        """Make a clip; streams progress, then returns its file (in "images") and figures.

        Args:
            prompt: what the clip should show, or a walk's first prompt.
            settings: {"base": fields of a request, "frames": 24, "fps": 12, "format": "mp4" (needs PyAV), "webp" or
                "gif", "keys": [{"prompt": ..., "seed": ...}, ...] that a walk goes on to, "first_frame": a picture's
                file as base64 or as a data URL, "method": "walk", "animatediff", "svd" or "pipeline" with its
                settings}.
        """
        given = fields(settings)
        values = {**given, "base": {**fields(given.get("base", {}), "base"), "prompt": prompt}}
        yield from run_task(studio, "animate", values, request)

    return animate

"""`/convergence`: how fast samplers come near the exact solution."""

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

    def convergence(prompt: str, request: gr.Request, settings: dict = {}) -> dict:
        """Measure samplers' errors to a long run from the same noise; streams progress, then returns the points.

        Args:
            prompt: of all runs.
            settings: {"samplers": ["ddim", "unipc"] or "all first order", "evaluations": [8, 16, 32] or "8, 10-50:10",
                "reference_steps": 20 to 999, "base": other fields of a request}.
        """
        given = fields(settings)
        values = {**given, "base": {**fields(given.get("base", {}), "base"), "prompt": prompt}}
        yield from run_task(studio, "convergence", values, request)

    return convergence

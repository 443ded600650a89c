"""`/quantize`: one picture in full precision beside the same from quantized weights."""

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

    def quantize(prompt: str, request: gr.Request, settings: dict = {}) -> dict:
        """Run a model beside its quantized copies; streams progress, then returns pictures, figures and errors by step.

        Args:
            prompt: for all of them.
            settings: {"base": fields of a request, "variants": ["int8", {"key": "int4", "group_size": 32}, ...],
                "measure": errors by layer and step and the time of a step, "peak": the peak of memory, each in a
                process of its own, "keep": true writes the quantized models into the models folder}.
        """
        given = fields(settings)
        values = {**given, "base": {**fields(given.get("base", {}), "base"), "prompt": prompt}}
        yield from run_task(studio, "quantize", values, request)

    return quantize

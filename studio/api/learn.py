"""`/learn`: fit a schedule to a model, a sampler and a number of steps."""

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

    def learn(request: gr.Request, settings: dict = {}) -> dict:
        """Fit a schedule; streams progress, then returns its name, its times and its loss curve in "outcome".

        Args:
            settings: {"base": {"model", "sampler", "guidance", "num_inference_steps", ...}, "learner": "ld3" or
                {"key": "auto_diffusion", ...}, "pictures": {"fitted": 16, ...}, "prompts": ["...", ...]}.
        """
        yield from run_task(studio, "learn", fields(settings), request)

    return learn

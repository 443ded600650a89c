"""`/generate`: pictures from a prompt."""

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

    def generate(prompt: str, request: gr.Request, settings: dict = {}) -> dict:
        """Make pictures from a prompt; streams progress, then returns the pictures as files.

        Args:
            prompt: what the picture should show.
            settings: any other fields of a request by name, e.g. {"num_inference_steps": 20, "seed": 7,
                "sampler": {"key": "ddim", "eta": 0.5}, "guidance": {"key": "cfg", "guidance_scale": 5}}.
        """
        yield from run_task(studio, "text_to_image", {**fields(settings), "prompt": prompt}, request)

    return generate

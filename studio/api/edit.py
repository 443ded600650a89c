"""`/edit`: a picture changed."""

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

    def edit(prompt: str, picture: str, request: gr.Request, settings: dict = {}) -> dict:
        """Change a picture; streams progress, then returns the edited picture and its figures.

        Args:
            prompt: what the edited picture should show.
            picture: the source's file as base64 or as a data URL.
            settings: {"base": fields of a request, "edit": "image_to_image", "inpaint", "outpaint", "reprompt",
                "replace", "refine" or "reweight" with its settings, "inversion": "direct", "edict" or "ddim",
                "source_prompt": what the source shows, "mask": a picture like the source, white where it may change,
                "fit": "crop" or "resize"}.
        """
        values = {
            **fields(settings),
            "picture": picture,
            "base": {**fields(settings.get("base", {}), "base"), "prompt": prompt},
        }
        yield from run_task(studio, "edit", values, request)

    return edit

"""`/cancel`: stop a job."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr

from pipelines.core.errors import StepwiseError

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["endpoint"]


def endpoint(studio: "Studio") -> Callable:
    """The function that Gradio offers to programs, with its annotations and docstring."""

    def cancel(job: str) -> dict:
        """Stop a job by its id; it ends at its next network evaluation."""
        try:
            studio.job(job).cancel()
        except StepwiseError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return {"job": job, "cancelled": True}

    return cancel

"""`/cancel`: stop a job."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.ui.asking import identify_person

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["endpoint"]


def endpoint(studio: "Studio") -> Callable:
    """Return the function that Gradio offers to programs, with its annotations and docstring."""

    def cancel(job: str) -> dict:
        """Stop a job by its id; it ends at its next network evaluation.

        The answer's `cancelled` is false where the job was over already, and `status` says how it ended.
        """
        try:
            person = identify_person(studio)
            was_over = studio.job(job, person).status.final
            view = studio.cancel(job, person)
        except StepwiseError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return {"job": job, "cancelled": not was_over, "status": view.status.value}

    return cancel

"""`/gallery_change`: delete results, and take them back."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.api.listings import change_results

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["endpoint"]


def endpoint(studio: "Studio") -> Callable:
    """The function that Gradio offers to programs, with its annotations and docstring."""

    def gallery_change(action: str, ids: list) -> dict:
        """Delete results, or take them back: a deleted one stays in the trash for thirty days.

        Args:
            action: "delete" or "restore".
            ids: of results, as /gallery lists them.
        """
        try:
            return change_results(studio, action, ids)
        except StepwiseError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return gallery_change

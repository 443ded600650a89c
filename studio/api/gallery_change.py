"""`/gallery_change`: delete results, take them back, and mark favorites."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.api.listings import change_results
from studio.ui.asking import list_visible_results

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["endpoint"]


def endpoint(studio: "Studio") -> Callable:
    """Return the function that Gradio offers to programs, with its annotations and docstring."""

    def gallery_change(action: str, ids: list) -> dict:
        """Delete results, take them back, mark favorites, or empty the trash, where results stay for thirty days.

        Args:
            action: "delete", "restore", "remove" deleted results for good, "empty" the trash, "star" or "unstar".
            ids: of results, as /gallery lists them; [] for "empty".
        """
        try:
            return change_results(list_visible_results(studio), action, ids)
        except StepwiseError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return gallery_change

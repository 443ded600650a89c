"""`/models_change`: load, release and fetch models, and look into the models folder again."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.api.listings import change_models

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["endpoint"]


def endpoint(studio: "Studio") -> Callable:
    """Return the function that Gradio offers to programs, with its annotations and docstring."""

    def models_change(action: str, model: str = "") -> dict:
        """Do what a button of the Models tab does, and list the models after it.

        A load or a download goes on behind the answer: ask /models how far it is, in "on_their_way".

        Args:
            action: "load", "download", "cancel" what is on its way, "release" the memory, or "rescan" the models
                folder.
            model: its key in the catalog, as /models lists it; empty for "rescan".
        """
        try:
            return change_models(studio, action, model)
        except StepwiseError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return models_change

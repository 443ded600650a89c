"""`/gallery`: what has been made."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.api.listings import listed_results
from studio.api.running import file_of

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["endpoint"]


def endpoint(studio: "Studio") -> Callable:
    """The function that Gradio offers to programs, with its annotations and docstring."""

    def gallery(search: str = "", kind: str = "", limit: int = 20, before: str = "") -> dict:
        """List results, the newest first, each with its file and all its settings.

        Args:
            search: words that the prompt holds.
            kind: only these, e.g. "text_to_image"; "" for all.
            limit: 1 to 1000.
            before: id of the last result of the page before this one.
        """
        try:
            found = listed_results(studio, search, kind, limit, before)
            return {**found, "results": [{**one, "file": file_of(studio, one["id"])} for one in found["results"]]}
        except StepwiseError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return gallery

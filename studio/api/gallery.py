"""`/gallery`: what has been made."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.api.listings import list_results
from studio.api.running import describe_file
from studio.results.options import ListOptions
from studio.ui.asking import list_visible_results

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["endpoint"]


def endpoint(studio: "Studio") -> Callable:
    """Return the function that Gradio offers to programs, with its annotations and docstring."""

    def gallery(
        search: str = "",
        kind: str = "",
        limit: int = 20,
        before: str = "",
        model: str = "",
        favorites: bool = False,
        order: str = "newest",
    ) -> dict:
        """List results, the newest first or in another order, each with its file and all its settings.

        Args:
            search: words that the prompt holds.
            kind: only these, e.g. "text_to_image"; "" for all.
            limit: 1 to 1000.
            before: id of the last result of the page before this one.
            model: key of the model that made them; "" for all.
            favorites: only those that whoever asks has marked.
            order: "newest", "oldest", "model", "slowest" or "steps".
        """
        try:
            options = ListOptions.parse(model, favorites, order)
            listing = list_results(list_visible_results(studio), search, kind, limit, before, options)
            files = [describe_file(studio, one["id"]) for one in listing["results"]]
            pairs = zip(listing["results"], files, strict=True)
            return {**listing, "results": [{**one, "file": file} for one, file in pairs if file is not None]}
        except StepwiseError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return gallery

"""The gallery's button that empties the trash: it says how much lies there, and a second click confirms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import gradio as gr

from studio.ui.component_data import Block, Data
from studio.ui.presentation import format_count, format_file_size

if TYPE_CHECKING:
    from studio.results.records import Freed
    from studio.results.visible import VisibleResults

__all__ = ["TrashButton"]


class TrashButton:
    """Lays out the button, shown beside the trash as long as something lies in it.

    Args:
        results: the results as whoever sent the present event sees them.
    """

    def __init__(self, results: Callable[[], VisibleResults]):
        self._results = results

    def build(self) -> None:
        """Lay it out."""
        self.button = gr.Button("Empty trash", size="sm", variant="stop", visible=False, elem_id="gal-empty-trash")
        self.was_asked = gr.JSON({}, visible=False)

    @property
    def outputs(self) -> set[Block]:
        """Return what `show` and `ask` change."""
        return {self.button, self.was_asked}

    def show(self, in_trash: bool) -> Data:
        """Return the updates for a list, of the trash or not: what a click would remove, not asked yet."""
        size = self._results().measure_trash() if in_trash else None
        if size is None or not size.results:
            return {self.button: gr.update(visible=False), self.was_asked: {}}
        return {self.button: gr.update(visible=True, value=f"Empty trash ({_describe(size)})"), self.was_asked: {}}

    def ask(self) -> Data:
        """Return the updates after the first click."""
        size = self._results().measure_trash()
        return {
            self.button: gr.update(value=f"Remove {_describe(size)} for good?"),
            self.was_asked: {"results": size.results},
        }

    def is_confirmed(self, was_asked: object) -> bool:
        """Say whether a click is the second one, about the trash as it still is.

        Args:
            was_asked: what the page holds of the first, untrusted.
        """
        count = was_asked.get("results") if isinstance(was_asked, Mapping) else None
        return type(count) is int and count == self._results().measure_trash().results

    def empty(self) -> str:
        """Empty the trash; returns what was done, as a sentence."""
        return f"{_describe(self._results().empty_trash())} removed for good."


def _describe(size: Freed) -> str:
    return f"{format_count(size.results, 'result')}, {format_file_size(size.bytes)}"

"""The part of the tab "Edit" that shows where the model looks for each word of the edited picture's prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from studio.jobs.job import Job, View
from studio.page.text_to_image.inspect import read_shown, render_finding
from studio.ui.live_routes import LiveTab, Parts
from studio.ui.page_context import PageContext
from studio.ui.running_tab import Form, RunningTab

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "WordMapsPanel"]

KEY = "edit_words"
_HINT = "Eight evaluations of the model. Then point at a word, or reach it with Tab, to see where the model looks."


class WordMapsPanel(RunningTab):
    """Holds a run of its own below the edit, which looks at the picture that is shown; nothing is run unasked.

    Args:
        studio: the backend.
        context: the page around the tab.
        picture_root: id of the column in which the picture is.
    """

    key, task, root, draws = KEY, "inspect", "edit-words", False

    def __init__(self, studio: Studio, context: PageContext, picture_root: str):
        self.studio, self.context, self._picture_root = studio, context, picture_root
        self.session = context.sessions[KEY]
        fold = gr.Accordion(
            "Where each word looks", open=False, elem_id="edit-words-fold", elem_classes="sw-acts-block"
        )
        with fold, gr.Column(elem_classes="sw-measuring", elem_id=self.root):
            self.source = gr.Textbox(label="Result", visible=False)
            gr.HTML(f"<p class='sw-hint'>{_HINT}</p>")
            self.run = gr.Button("Show", variant="primary", elem_id="edit-words-run", elem_classes="sw-measure")
            self.stop = gr.Button("Stop", variant="stop", elem_id="edit-words-stop", elem_classes="sw-stop")
            self.notice = gr.HTML(elem_id="edit-words-notice", elem_classes="sw-notices")
            gr.HTML(
                f'<div class="sw-show"><div id="{self.root}-progress"></div><div id="{self.root}-found"></div></div>',
                js_on_load=f"window.stepwise.mounted({KEY!r}, {self.root!r})",
            )

    def wire(self) -> None:
        """Connect the buttons."""
        shown: dict[Component, str] = {
            self.source: f"stepwise.shownResult(document.getElementById({self._picture_root!r}))"
        }
        form = Form({self.source}, self._read, (), lambda draft: {}, draft=lambda data: {}, typed=(), shown=shown)
        self._wire_run(form, LiveTab(self.task, form.read, self._build_renderer))

    def _read(self, data: Mapping[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"inspection": {"key": "word_attention"}, **read_shown(self.studio, data[self.source])}

    def _build_renderer(self, job: Job) -> Callable[[View], Parts]:
        return lambda view: {f"{self.root}-{name}": part for name, part in render_finding(view, self.root).items()}

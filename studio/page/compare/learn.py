"""The part of the tab "Compare" that fits a schedule to the shared model, sampler, guidance and steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.learning.fitting import LEARNERS, PictureSettings
from studio.jobs.job import Job, View
from studio.page.compare.learn_plot import EMPTY, learn_view
from studio.ui import markup, presentation
from studio.ui.controls import method_controls, settings_controls, settings_values
from studio.ui.form import RequestForm
from studio.ui.live_routes import LiveTab, Parts
from studio.ui.page_context import PageContext
from studio.ui.running_tab import Form, RunningTab

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "LearnPanel"]

KEY = "learn"
_TAKEN = ("model", "sampler", "guidance", "num_inference_steps", "width", "height", "negative_prompt")


class LearnPanel(RunningTab):
    """A fit of its own beside the comparison, with the comparison's shared settings.

    Args:
        studio: the backend.
        context: the page around the tab.
        form: the shared settings.
    """

    key, root = KEY, "cmp-learn"

    def __init__(self, studio: Studio, context: PageContext, form: RequestForm):
        self.studio, self.context, self.form = studio, context, form
        self.session = context.sessions[KEY]
        with (
            gr.Accordion(
                "Learn a schedule for the shared model, sampler and steps", open=False, elem_id="cmp-learn-fold"
            ),
            gr.Column(elem_classes="sw-measuring", elem_id=self.root),
        ):
            self._build()

    def _build(self) -> None:
        self.learner = method_controls(LEARNERS, "cmp-learn", label="How")
        with gr.Row():
            self.pictures = settings_controls(PictureSettings, "cmp-learn")
        self.prompts = gr.Textbox(
            "",
            label="Prompts",
            info="One a line; empty takes simple ones.",
            lines=2,
            max_lines=6,
            max_length=20000,
            elem_id="cmp-learn-prompts",
        )
        self.run = gr.Button("Fit", variant="primary", elem_id="cmp-learn-run", elem_classes="sw-measure")
        self.stop = gr.Button("Stop", variant="stop", elem_id="cmp-learn-stop", elem_classes="sw-stop")
        self.notice = gr.HTML(elem_id="cmp-learn-notice", elem_classes="sw-notices")
        shown = f'<div id="cmp-learn-progress"></div><div id="cmp-learn-plot">{EMPTY}</div>'
        gr.HTML(f'<div class="sw-show">{shown}</div>', js_on_load=f"window.stepwise.mounted({KEY!r}, {self.root!r})")

    def wire(self) -> None:
        """Connect the buttons, once the shared settings stand."""
        own = {self.prompts, *self.pictures.values(), self.learner.method, *self.learner.fields}
        outputs = {self.prompts, *self.pictures.values(), *self.learner.outputs}
        form = Form({*self.form.inputs, *own}, self._read, outputs, self._refilled)
        self._wire_run(form, LiveTab(KEY, form.read, self._renderer))

    def _read(self, data: dict[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        own = {
            "learner": self.learner.choice(data),
            "prompts": data[self.prompts] or "",
            "pictures": settings_values(self.pictures, data, PictureSettings),
        }
        request = self.form.request(self.form.draft(data))
        return own, {**own, "base": {name: request[name] for name in _TAKEN if name in request}}

    def _refilled(self, draft: Any) -> dict[Any, Any]:
        if not isinstance(draft, Mapping) or not draft.keys() >= {"learner", "prompts", "pictures"}:
            return {}
        given = {self.pictures[name]: value for name, value in draft["pictures"].items() if name in self.pictures}
        return {self.prompts: draft["prompts"], **given, **self.learner.updates(draft["learner"])}

    @staticmethod
    def _renderer(job: Job) -> Callable[[View], Parts]:
        def parts(view: View) -> Parts:
            done, total = sum(len(cell.rows) for cell in view.cells), sum(cell.num_steps for cell in view.cells)
            bar = markup.progress(view.status, presentation.progress(view), done, total)
            return {"cmp-learn-progress": {"html": bar}, "cmp-learn-plot": {"html": learn_view(view.outcome)}}

        return parts

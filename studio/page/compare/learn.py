"""The part of the tab "Compare" that fits a schedule to the shared model, sampler, guidance and steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.core.errors import StepwiseError
from pipelines.learning.request import LEARNERS, PictureSettings
from studio.jobs.job import Job, View
from studio.page.compare.learn_plot import EMPTY, USES, learn_view
from studio.results.search import COMPARISON
from studio.ui import markup, presentation
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING, build_elem_id, build_method_controls
from studio.ui.form import RequestForm
from studio.ui.live_routes import LiveTab, Parts
from studio.ui.page_context import PageContext
from studio.ui.running_tab import Form, RunningTab
from studio.ui.settings_panel import build_single_panel

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "PRESETS", "LearnPanel", "list_used_settings"]

KEY = "learn"
PRESETS: Mapping[str, tuple[dict[str, Any], dict[str, int]]] = {
    "Quick try": ({"key": "ld3", "rounds": 16, "batch": 4}, {"fitted": 8, "held_out": 8, "teacher_steps": 30}),
    "LD3": ({"key": "ld3"}, {}),
    "Bespoke solver": ({"key": "bespoke"}, {}),
    "Any sampler": ({"key": "auto_diffusion"}, {}),
    "Quantized model": ({"key": "q_sched"}, {}),
}
"""Button to a learner with its settings, and the pictures' settings; all others are as they are by default."""

_ON_LOAD = """
window.stepwise.mounted({0!r}, {1!r});
element.addEventListener('click', (event) => {{
  const button = event.target.closest('[data-use]');
  if (button) trigger('click', {{ use: button.dataset.use }});
}});
"""
_SHARED_FIELDS = ("model", "sampler", "guidance", "num_inference_steps", "width", "height", "negative_prompt")


class LearnPanel(RunningTab):
    """Runs a fit of its own beside the comparison, with the comparison's shared settings.

    Args:
        studio: the backend.
        context: the page around the tab.
        form: the shared settings.
    """

    key, root, draws = KEY, "cmp-learn", False

    def __init__(self, studio: Studio, context: PageContext, form: RequestForm):
        self.studio, self.context, self.form = studio, context, form
        self.session = context.sessions[KEY]
        with (
            gr.Accordion(
                "Learn a schedule for the shared model, sampler and steps",
                open=False,
                elem_id="cmp-learn-fold",
                elem_classes="sw-expert",
            ),
            gr.Column(elem_classes="sw-measuring", elem_id=self.root),
        ):
            self._build()

    def _build(self) -> None:
        with gr.Row(elem_classes="sw-examples"):
            self.presets = {
                gr.Button(label, size="sm", min_width=0, elem_id=build_elem_id(self.root, "preset", label)): label
                for label in PRESETS
            }
        self.learner = build_method_controls(LEARNERS, "cmp-learn", label="Method")
        self.pictures = build_single_panel(PictureSettings, "cmp-learn")
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
        output = f'<div id="cmp-learn-progress"></div><div id="cmp-learn-plot">{EMPTY}</div>'
        self.result = gr.HTML(f'<div class="sw-show">{output}</div>', js_on_load=_ON_LOAD.format(KEY, self.root))

    def wire(self) -> None:
        """Connect the buttons, once the shared settings stand."""
        inputs = {self.prompts, self.pictures.component, self.learner.method, *self.learner.fields}
        outputs = {self.prompts, self.pictures.component, *self.learner.outputs}
        form = Form({*self.form.inputs, *inputs}, self._read, outputs, self._refill, draft=self._typed, typed=inputs)
        self._wire_run(form, LiveTab(KEY, form.read, self._build_renderer))
        settings: Any = {self.pictures.component, *self.learner.outputs}
        for button, label in self.presets.items():
            button.click(lambda label=label: self._fill_preset(*PRESETS[label]), outputs=settings, **PLUMBING)
        self.context.run_later(self._wire_uses)

    def _wire_uses(self) -> None:
        """Connect the buttons under a fitted schedule, when the tabs that take it stand."""
        receivers = {key: self.context.receive[key] for key in USES if key in self.context.receive}

        def use(session: object, event: gr.EventData) -> Data:
            job, key = self._find_job(session), str((event._data or {}).get("use", ""))
            outcome = job.view().outcome if job else {}
            if key not in receivers or "name" not in outcome:
                return {self.notice: markup.notice("This fit is no longer in memory. Its schedule is kept.", "news")}
            try:
                updates = receivers[key].updates(list_used_settings(outcome))
            except StepwiseError as error:
                return {self.notice: markup.notice(str(error))}
            return {self.notice: "", **updates, self.context.tabs: gr.Tabs(selected=key)}

        shown = {part for receiver in receivers.values() for part in receiver.outputs}
        outputs: Any = {self.notice, self.context.tabs, *shown}
        self.result.click(use, [self.session], outputs, **PLUMBING)

    def _fill_preset(self, learner: Mapping[str, object], pictures: Mapping[str, int]) -> Data:
        """Show a preset: its learner with its settings, and the pictures'; the others as by default."""
        return {**self.learner.updates(learner), **self.pictures.show(pictures)}

    def _read(self, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
        panel_values = self._typed(data)
        request = self.form.request(self.form.draft(data))
        return panel_values, {
            **panel_values,
            "base": {name: request[name] for name in _SHARED_FIELDS if name in request},
        }

    def _typed(self, data: Data) -> dict[str, Any]:
        return {
            "learner": self.learner.choice(data),
            "prompts": data[self.prompts] or "",
            "pictures": self.pictures.read(data),
        }

    def _refill(self, draft: object) -> Data:
        if not isinstance(draft, Mapping) or not draft.keys() >= {"learner", "prompts", "pictures"}:
            return {}
        return {
            self.prompts: draft["prompts"],
            **self.pictures.show(draft["pictures"]),
            **self.learner.updates(draft["learner"]),
        }

    @staticmethod
    def _build_renderer(job: Job) -> Callable[[View], Parts]:
        def render(view: View) -> Parts:
            done, total = sum(len(cell.rows) for cell in view.cells), sum(cell.num_steps for cell in view.cells)
            bar = markup.progress(view.status, presentation.list_progress_parts(view), done, total)
            return {"cmp-learn-progress": {"html": bar}, "cmp-learn-plot": {"html": learn_view(view.outcome)}}

        return render


def list_used_settings(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a tab takes of a finished fit: its run's settings, with the fitted schedule by name.

    The cells of a comparison, which have no settings of a schedule, take the best that is kept for the same run.
    """
    request = outcome["request"]
    values = {name: request[name] for name in _SHARED_FIELDS if name in request}
    sampler = request["sampler"]["key"]
    cells = [{"sampler": sampler, "schedule": key} for key in ("uniform", "learned")]
    grid = {"cells": cells, "equal": "steps"}
    return {**values, "schedule": {"key": "learned", "name": outcome["name"]}, COMPARISON: grid}

"""The part of the tab "Compare" that measures whole samplers: error against evaluations, and the shared schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from pipelines.samplers import SAMPLERS
from pipelines.workflows.convergence import EVALUATIONS, REFERENCE_STEPS
from studio.jobs.job import Job, View
from studio.page.compare.convergence_plot import EMPTY, draw_convergence
from studio.ui import markup, presentation
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING, MethodControls
from studio.ui.form import RequestForm
from studio.ui.live_routes import LiveTab, Parts
from studio.ui.page_context import PageContext
from studio.ui.running_tab import Form, RunningTab
from studio.ui.schedule_plots import schedule_view

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "ConvergencePanel", "SchedulePanel"]

KEY = "convergence"
FIRST = "dpmpp_2m, unipc, heun, ddim"
_FIELDS = ("samplers", "evaluations", "reference_steps")


class ConvergencePanel(RunningTab):
    """Runs a measurement of its own beside the comparison, with the comparison's shared settings.

    Args:
        studio: the backend.
        context: the page around the tab.
        form: the shared settings.
    """

    key, root, draws = KEY, "cmp-conv", False

    def __init__(self, studio: Studio, context: PageContext, form: RequestForm):
        self.studio, self.context, self.form = studio, context, form
        self.session = context.sessions[KEY]
        with (
            gr.Accordion(
                "Convergence: error against evaluations", open=False, elem_id="cmp-conv-fold", elem_classes="sw-expert"
            ),
            gr.Column(elem_classes="sw-measuring", elem_id=self.root),
        ):
            self._build()

    def _build(self) -> None:
        families = ", ".join(f"all {name}" for name in SAMPLERS.groups[:4])
        self.samplers = gr.Textbox(
            FIRST,
            label="Samplers",
            info=f"Keys or names with commas; whole families too: {families}, … or all.",
            max_lines=3,
            max_length=2000,
            elem_id="cmp-conv-samplers",
        )
        with gr.Row():
            self.evaluations = gr.Textbox(
                ", ".join(map(str, EVALUATIONS)),
                label="Evaluations (NFE)",
                info="Every guidance branch counts.",
                max_lines=2,
                max_length=400,
                elem_id="cmp-conv-evaluations",
            )
            self.reference_steps = gr.Slider(
                20,
                REFERENCE_STEPS,
                value=REFERENCE_STEPS,
                step=1,
                label="Steps of the reference",
                buttons=[],
                elem_id="cmp-conv-reference",
            )
        gr.HTML("<p class='sw-hint'>Prompt, seed, schedule, guidance and initialization are the shared ones.</p>")
        self.run = gr.Button("Measure", variant="primary", elem_id="cmp-conv-run", elem_classes="sw-measure")
        self.stop = gr.Button("Stop", variant="stop", elem_id="cmp-conv-stop", elem_classes="sw-stop")
        self.notice = gr.HTML(elem_id="cmp-conv-notice", elem_classes="sw-notices")
        output = f'<div id="cmp-conv-progress"></div><div id="cmp-conv-plot">{EMPTY}</div>'
        gr.HTML(f'<div class="sw-show">{output}</div>', js_on_load=f"window.stepwise.mounted({KEY!r}, {self.root!r})")

    def wire(self) -> None:
        """Connect the buttons, once the shared settings stand."""
        own = {getattr(self, name) for name in _FIELDS}
        form = Form({*self.form.inputs, *own}, self._read, own, self._refill, draft=self._typed, typed=own)
        self._wire_run(form, LiveTab(KEY, form.read, self._build_renderer))

    def _read(self, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
        panel_values = self._typed(data)
        draft = self.form.draft(data)
        # The number that stands there, also where each run takes a new one: or every view needed a new reference.
        base = {**self.form.request(draft), "seed": draft["seed"], "batch_size": 1}
        return panel_values, {"base": base, **panel_values}

    def _typed(self, data: Data) -> dict[str, Any]:
        return {name: data[getattr(self, name)] for name in _FIELDS}

    def _refill(self, draft: object) -> Data:
        if not isinstance(draft, Mapping) or not draft.keys() >= set(_FIELDS):
            return {}
        return {getattr(self, name): draft[name] for name in _FIELDS}

    @staticmethod
    def _build_renderer(job: Job) -> Callable[[View], Parts]:
        def render(view: View) -> Parts:
            done, total = sum(len(cell.rows) for cell in view.cells), sum(cell.num_steps for cell in view.cells)
            bar = markup.progress(view.status, presentation.list_progress_parts(view), done, total)
            return {"cmp-conv-progress": {"html": bar}, "cmp-conv-plot": {"html": draw_convergence(view.outcome)}}

        return render


class SchedulePanel:
    """Draws the shared schedule's noise levels and signal-to-noise ratios anew when it changes.

    Args:
        studio: the backend.
        form: the shared settings.
    """

    def __init__(self, studio: Studio, form: RequestForm):
        self.studio, self.form = studio, form
        self.fold = gr.Accordion(
            "The shared schedule: noise level and signal-to-noise ratio",
            open=False,
            elem_id="cmp-schedule-fold",
            elem_classes="sw-expert",
        )
        with self.fold:
            self.plots = gr.HTML("<p class='sw-hint'>Drawn when opened.</p>", elem_id="cmp-schedule-plots")
            # The page's script presses it when the form has changed while the section is open (assets/js/forms.js).
            self.draw = gr.Button("Draw", elem_id="cmp-schedule-draw", elem_classes="sw-follows sw-unseen")

    def wire(self) -> None:
        """Connect it, once the shared settings stand."""
        inputs = {
            *self._fields.values(),
            *(part for one in self._methods.values() for part in (one.method, *one.fields)),
        }
        triggers = [self.fold.expand, self.draw.click]
        gr.on(triggers, self._draw, inputs=inputs, outputs={self.plots}, trigger_mode="always_last", **PLUMBING)

    @property
    def _fields(self) -> dict[str, Component]:
        return {name: self.form.fields[name] for name in ("model", "num_inference_steps", "width", "height")}

    @property
    def _methods(self) -> dict[str, MethodControls]:
        """A learned schedule is that of a sampler and a guidance."""
        return {name: self.form.methods[name] for name in ("schedule", "sampler", "guidance")}

    def _draw(self, data: Data) -> Data:
        choices = {name: one.choice(data) for name, one in self._methods.items()}
        values = {name: data[component] for name, component in self._fields.items()}
        values |= {name: choice for name, choice in choices.items() if choice is not None}
        return {self.plots: schedule_view(self.studio, values)}

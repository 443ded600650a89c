"""The tab "Compare": one prompt and one initial noise, several cells, all streaming at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.exports.comparison import store_picture, store_table
from studio.jobs.job import Job, View
from studio.page.compare.convergence import ConvergencePanel, SchedulePanel
from studio.page.compare.grid import EMPTY, ComparisonGrid, table
from studio.page.compare.learn import LearnPanel
from studio.page.compare.setup import ComparisonSetup
from studio.results.search import COMPARISON, SHARED
from studio.ui import markup, presentation
from studio.ui.controls import PLUMBING
from studio.ui.deep_links import Own, copy_link
from studio.ui.form import FIXED
from studio.ui.live_routes import LiveTab, Parts
from studio.ui.page_context import PageContext, Receiver
from studio.ui.results_route import address, address_of
from studio.ui.running_tab import Form, RunningTab

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "CompareTab", "build"]

KEY = "compare"
PROMPT = "a fox on a blue background"


class CompareTab(RunningTab):
    """The tab's components and what happens between them.

    Args:
        studio: the backend.
        context: the page around the tab.
    """

    key, root = KEY, "cmp"

    def __init__(self, studio: Studio, context: PageContext):
        self.studio, self.context = studio, context
        self.session = context.sessions[KEY]
        self.setup = ComparisonSetup(studio, "cmp")
        self.form = self.setup.form
        with gr.Column(elem_classes="sw-studio sw-comparison sw-live", elem_id="cmp"):
            with gr.Column(elem_classes="sw-compose", min_width=0):
                self._compose()
            with gr.Column(elem_classes="sw-compared", min_width=0):
                self._results()
            with gr.Column(elem_classes="sw-settings", min_width=0):
                self.setup.differences()
                self.setup.shared()
                own = Own(
                    lambda: self.setup.inputs,
                    lambda data: self.setup.values(self.setup.draft(data)),
                    lambda: self.context.receive[KEY],
                )
                copy_link(self.form, self.context, KEY, "cmp", own)
        self._wire()

    # Layout.

    def _compose(self) -> None:
        self.form.prompt(PROMPT)
        self.run = gr.Button("Compare", variant="primary", elem_id="cmp-run", elem_classes="sw-run")
        self.stop = gr.Button("Stop", variant="stop", elem_id="cmp-stop", elem_classes="sw-stop")
        with gr.Row(elem_classes="sw-examples", elem_id="cmp-presets"):
            self.setup.presets()

    def _results(self) -> None:
        self.notice = gr.HTML(elem_id="cmp-notice", elem_classes="sw-notices")
        shown = f'<div id="cmp-progress"></div><div id="cmp-grid">{EMPTY}</div><div id="cmp-table"></div>'
        gr.HTML(f'<div class="sw-show">{shown}</div>', js_on_load=f"window.stepwise.mounted({KEY!r}, {self.root!r})")
        with gr.Row(elem_classes="sw-exports"):
            self.buttons = {}
            self.exported = gr.Textbox(label="Exported file", visible=False)
            for kind, label in (("png", "Labeled picture"), ("csv", "Table as CSV")):
                self.buttons[kind] = gr.Button(label, size="sm", min_width=0, elem_id=f"cmp-{kind}")
        self.panels = (
            SchedulePanel(self.studio, self.form),
            ConvergencePanel(self.studio, self.context, self.form),
            LearnPanel(self.studio, self.context, self.form),
        )

    # Events.

    def _wire(self) -> None:
        form = Form(self.setup.inputs, self._read, self.setup.outputs, self.setup.updates)
        ended = self._wire_run(form, LiveTab(KEY, form.read, self._renderer))
        ended.then(self._show_seed, inputs={self.session}, outputs={self.form.fields["seed"]}, **PLUMBING)
        self.form.reuse.click(self._reuse_seed, inputs={self.session}, outputs=self.form.outputs, **PLUMBING)
        self.setup.wire()
        for panel in self.panels:
            panel.wire()
        for kind, button in self.buttons.items():
            made = button.click(
                lambda data, kind=kind: self._export(kind, data),
                inputs={self.session},
                outputs={self.exported, self.notice},
                **PLUMBING,
            )
            made.success(None, inputs=[self.exported], js="(address) => stepwise.download(address)", **PLUMBING)
        self.context.receive[KEY] = Receiver(self.setup.outputs, self._received, COMPARISON, self.setup.settings)

    # Handlers: each takes the data of its inputs and gives updates by component.

    def _received(self, values: Mapping[str, Any]) -> dict[Any, Any]:
        """Settings from another tab, a link or a result; of a comparison's cell, the whole comparison."""
        return self.setup.received(values.get(COMPARISON, {}), {**values, **values.get(SHARED, {})})

    def _read(self, data: dict[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        draft = self.setup.draft(data)
        return draft, self.setup.values(draft)

    def _renderer(self, job: Job) -> Callable[[View], Parts]:
        grid = ComparisonGrid(job, self._address)

        def parts(view: View) -> Parts:
            finished = view.status.final and any(cell.images is not None for cell in view.cells)
            return {
                "cmp-progress": {"html": self._progress(view)},
                **grid.parts(view, self.root),
                "cmp-table": {"html": table(job, view) if view.status.final else ""},
                self.root: {"data-finished": "" if finished else None},
            }

        return parts

    def _show_seed(self, data: dict[Any, Any]) -> Any:
        """The seed that was drawn, once the run is over: so that nobody's typing is overwritten while it lasts."""
        job = self._job(data[self.session])
        return {self.form.fields["seed"]: str(job.request.base.seed)} if job else gr.skip()

    @staticmethod
    def _progress(view: View) -> str:
        done, total = sum(len(cell.rows) for cell in view.cells), sum(cell.num_steps for cell in view.cells)
        return markup.progress(view.status, presentation.progress(view), done, total)

    def _export(self, kind: str, data: dict[Any, Any]) -> dict[Any, Any]:
        job = self._job(data[self.session])
        if job is None:
            raise gr.Error("This comparison is no longer in memory. Run it again to export it.", print_exception=False)
        try:
            record = {"png": store_picture, "csv": store_table}[kind](self.studio.store, job)
        except StepwiseError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return {self.exported: address(record.id), self.notice: ""}

    def _reuse_seed(self, data: dict[Any, Any]) -> Any:
        job = self._job(data[self.session])
        return self.form.updates({"seed": job.request.base.seed, "seed_mode": FIXED}) if job else gr.skip()

    def _address(self, result: str) -> str | None:
        return address_of(self.studio.store, result)


def build(studio: Studio, context: PageContext) -> None:
    """The tab, in the present layout context."""
    CompareTab(studio, context)

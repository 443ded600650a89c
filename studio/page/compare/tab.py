"""The tab "Compare": one prompt and one initial noise, several cells, all streaming at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.exports.comparison import store_picture, store_table
from studio.jobs.job import Job, View
from studio.page.compare.convergence import ConvergencePanel, SchedulePanel
from studio.page.compare.grid import EXAMPLE, WORDS, ComparisonGrid, build_table
from studio.page.compare.learn import LearnPanel
from studio.page.compare.setup import ComparisonSetup
from studio.results.search import COMPARISON, SHARED
from studio.ui import markup, presentation
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING
from studio.ui.deep_links import TabSettings, copy_link
from studio.ui.example_chips import finished_grid
from studio.ui.form import FIXED
from studio.ui.live_routes import LiveTab, Parts
from studio.ui.outputs import in_order
from studio.ui.page_context import PageContext, Receiver
from studio.ui.results_route import build_address, find_address
from studio.ui.running_tab import Form, RunningTab

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "CompareTab", "build"]

KEY = "compare"
PROMPT = "a fox on a blue background"


class CompareTab(RunningTab):
    """Holds the tab's components and connects their events.

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
                self._build_results()
            with gr.Column(elem_classes="sw-settings", min_width=0):
                self.setup.differences()
                self.setup.shared()
                link_source = TabSettings(
                    lambda: self.setup.inputs,
                    lambda data: self.setup.values(self.setup.draft(data)),
                    lambda: self.context.receive[KEY],
                )
                copy_link(self.form, self.context, KEY, "cmp", link_source)
        self._wire()

    # Layout.

    def _compose(self) -> None:
        self.form.prompt(PROMPT)
        self.form.hint(syntax=False)
        self.run = gr.Button("Compare", variant="primary", elem_id="cmp-run", elem_classes="sw-run")
        self.stop = gr.Button("Stop", variant="stop", elem_id="cmp-stop", elem_classes="sw-stop")
        with gr.Row(elem_classes="sw-examples", elem_id="cmp-presets"):
            self.setup.presets()

    def _build_results(self) -> None:
        self.notice = gr.HTML(elem_id="cmp-notice", elem_classes="sw-notices")
        grid = f'<div id="cmp-grid">{finished_grid(EXAMPLE, *WORDS)}</div>'
        results_html = f'<div id="cmp-progress"></div>{grid}<div id="cmp-table"></div>'
        gr.HTML(
            f'<div class="sw-show">{results_html}</div>', js_on_load=f"window.stepwise.mounted({KEY!r}, {self.root!r})"
        )
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
        form = Form(self.setup.inputs, self._read, self.setup.outputs, self.setup.updates, draft=self.setup.draft)
        self.context.lists[KEY] = self.form.lists
        self._wire_run(form, LiveTab(KEY, form.read, self._build_renderer))
        self.form.reuse.click(self._reuse_seed, inputs={self.session}, outputs=in_order(self.form.outputs), **PLUMBING)
        self.setup.wire()
        for panel in self.panels:
            panel.wire()
        for kind, button in self.buttons.items():
            exported = button.click(
                lambda data, kind=kind: self._export(kind, data),
                inputs={self.session},
                outputs=in_order([self.exported, self.notice]),
                **PLUMBING,
            )
            exported.success(None, inputs=[self.exported], js="(address) => stepwise.download(address)", **PLUMBING)
        self.context.receive[KEY] = Receiver(
            self.setup.outputs,
            self._receive,
            COMPARISON,
            self.setup.settings,
            model=self.form.first.key,
            models=lambda: self.form.models,
        )

    # Handlers: each takes the data of its inputs and gives updates by component.

    def _receive(self, values: Mapping[str, Any]) -> Data:
        """Settings from another tab, a link or a result; of a comparison's cell, the whole comparison."""
        return self.setup.receive(values.get(COMPARISON, {}), {**values, **values.get(SHARED, {})})

    def _read(self, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
        draft = self.setup.draft(data)
        return draft, self.setup.values(draft)

    def _build_renderer(self, job: Job) -> Callable[[View], Parts]:
        grid = ComparisonGrid(job.request, self._find_address)

        def render(view: View) -> Parts:
            finished = view.status.final and any(cell.images is not None for cell in view.cells)
            return {
                "cmp-progress": {"html": self._build_progress(view)},
                **grid.build_parts(view, self.root),
                "cmp-table": {"html": build_table(job, view) if view.status.final else ""},
                self.root: {"data-finished": "" if finished else None},
            }

        return render

    @staticmethod
    def _build_progress(view: View) -> str:
        done, total = sum(len(cell.rows) for cell in view.cells), sum(cell.num_steps for cell in view.cells)
        return markup.progress(view.status, presentation.list_progress_parts(view), done, total)

    def _export(self, kind: str, data: Data) -> Data:
        job = self._find_job(data[self.session])
        if job is None:
            raise gr.Error("This comparison is no longer in memory. Run it again to export it.", print_exception=False)
        try:
            record = {"png": store_picture, "csv": store_table}[kind](self.studio.store, job)
        except StepwiseError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return {self.exported: build_address(record.id), self.notice: ""}

    def _reuse_seed(self, data: Data) -> Any:
        job = self._find_job(data[self.session])
        return self.form.updates({"seed": job.request.base.seed, "seed_mode": FIXED}) if job else gr.skip()

    def _find_address(self, result: str) -> str | None:
        return find_address(self.studio.store, result)


def build(studio: Studio, context: PageContext) -> None:
    """Build the tab, in the present layout context."""
    CompareTab(studio, context)

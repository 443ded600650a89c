"""The part of the tab "Edit" that edits the picture by several methods at once, side by side as each comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.core.registry import Table
from pipelines.edits import EDITS
from pipelines.inversions import INVERSIONS
from pipelines.workflows.compare.request import ComparisonCell, ComparisonRequest
from pipelines.workflows.edit.comparison import ALL, EditComparison
from studio.jobs.job import Cell, Job, View
from studio.page.compare.grid import ComparisonGrid
from studio.page.edit.form import EditForm
from studio.ui import markup, presentation
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING
from studio.ui.live_routes import LiveTab, Parts
from studio.ui.page_context import PageContext
from studio.ui.results_route import find_address
from studio.ui.running_tab import Form, ReadyForms, RunningTab

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "EveryWayPanel"]

KEY = "compare_edits"
_HINT = (
    "Source, prompts, mask, seed and steps are those above; a method that cannot do it says why. The chosen method "
    "keeps its settings, the others have their defaults."
)


class EveryWayPanel(RunningTab):
    """Runs several edits of the tab's picture with the tab's settings.

    Args:
        studio: the backend.
        context: the page around the tab.
        form: the tab's.
    """

    key, root, draws = KEY, "edit-ways", False

    def __init__(self, studio: Studio, context: PageContext, form: EditForm):
        self.studio, self.context, self.edit_form, self.form = studio, context, form, form.base
        self.session = context.sessions[KEY]
        self.fold = gr.Accordion(
            "Compare methods on this picture", open=False, elem_id="edit-ways-fold", elem_classes="sw-ways"
        )
        with self.fold, gr.Column(elem_classes="sw-measuring", elem_id=self.root):
            self._build()

    def _build(self) -> None:
        with gr.Row():
            self.edits = _build_list(EDITS, "Edit methods", "None chosen: all.", "edit-ways-edits")
            self.inversions = _build_list(
                INVERSIONS, "Inversions", "None chosen: the one above.", "edit-ways-inversions"
            )
        gr.HTML(f"<p class='sw-hint'>{_HINT}</p>")
        self.run = gr.Button("Compare methods", variant="primary", elem_id="edit-ways-run", elem_classes="sw-measure")
        self.stop = gr.Button("Stop", variant="stop", elem_id="edit-ways-stop", elem_classes="sw-stop")
        self.notice = gr.HTML(elem_id="edit-ways-notice", elem_classes="sw-notices")
        parts = "".join(f'<div id="{self.root}-{name}"></div>' for name in ("progress", "grid", "refused"))
        gr.HTML(f'<div class="sw-show">{parts}</div>', js_on_load=f"window.stepwise.mounted({KEY!r}, {self.root!r})")

    def wire(self, begin: gr.Button) -> None:
        """Connect the buttons, once the tab's form stands.

        Args:
            begin: opens the section and starts the run in one click.
        """
        own, ready = {self.edits, self.inversions}, ReadyForms()
        form = Form({*self.edit_form.inputs, *own}, self._read, own, self._refill, draft=self._typed, typed=own)
        self._wire_run(form, LiveTab(KEY, ready.take, self._build_renderer), ready)
        opened = begin.click(lambda: gr.update(open=True), outputs=[self.fold], **PLUMBING)
        opened.then(None, js=f"() => stepwise.pressWhenShown('edit-ways-run', {self.root!r})", **PLUMBING)

    def _read(self, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
        draft, (_, values) = self._typed(data), self.edit_form.read(data, gives_reference=True)
        inversions = draft["inversions"] or [data[self.edit_form.inversion.method]]
        return draft, {**values, "edits": draft["edits"] or ALL, "inversions": inversions}

    def _typed(self, data: Data) -> dict[str, Any]:
        return {"edits": list(data[self.edits] or ()), "inversions": list(data[self.inversions] or ())}

    def _refill(self, draft: object) -> Data:
        if not isinstance(draft, Mapping):
            return {}
        lists = {self.edits: (draft.get("edits"), EDITS), self.inversions: (draft.get("inversions"), INVERSIONS)}
        return {
            component: [key for key in keys if key in table]
            for component, (keys, table) in lists.items()
            if isinstance(keys, list)
        }

    def _build_renderer(self, job: Job) -> Callable[[View], Parts]:
        request: EditComparison = job.request
        count = sum(not cell.problem for cell in request.cells)
        shown = tuple(ComparisonCell({}, cell.request.base, cell.label) for cell in request.cells[:count])
        # The grid of a comparison draws any job with cells.
        plan = ComparisonRequest(request.base, shown)
        grid = ComparisonGrid(plan, lambda result: find_address(self.studio.store, result), describe_edit)

        def render(view: View) -> Parts:
            done, total = sum(len(cell.rows) for cell in view.cells), sum(cell.num_steps for cell in view.cells)
            bar = markup.progress(view.status, presentation.list_progress_parts(view), done, total)
            running = dataclasses.replace(view, cells=view.cells[:count])
            return {
                f"{self.root}-progress": {"html": bar},
                **grid.build_parts(running, self.root),
                f"{self.root}-refused": {"html": list_refused(view.cells[count:])},
            }

        return render


def _build_list(table: Table[Any], label: str, info: str, identity: str) -> gr.Dropdown:
    choices = [(method.label, method.key) for method in table.values()]
    return gr.Dropdown(choices, value=[], multiselect=True, label=label, info=info, elem_id=identity)


def describe_edit(cell: Cell) -> str:
    """Write what is known of a finished edit as HTML: whether it shows the prompt, and what it left alone."""
    figures, texts = cell.figures, []
    if (share := figures.get("prompt_probability")) is not None:
        texts.append(f"shows the prompt: {100 * share:.0f} %")
    if "background_psnr" in figures:
        decibels = figures["background_psnr"]
        pasted = figures.get("background_exact") or decibels is None
        texts.append("outside the mask: identical" if pasted else f"outside the mask: {decibels:.1f} dB")
    elif figures.get("source_psnr") is not None:
        texts.append(f"to the source: {figures['source_psnr']:.1f} dB")
    spans = "".join(f"<span>{text}</span>" for text in texts)
    return f'<p class="sw-likeness">{spans}</p>' if spans else ""


def list_refused(cells: Sequence[Cell]) -> str:
    """List the ways that cannot be gone, each with its reason, as HTML; "" where there are none."""
    if not cells:
        return ""
    items = "".join(
        f"<li><b>{markup.escape(cell.label)}</b> <small>{markup.prose(cell.note)}</small></li>" for cell in cells
    )
    count = presentation.format_count(len(cells), "method")
    return f'<details class="qz-missing"><summary>{count} left out, and why</summary><ul>{items}</ul></details>'

"""The part of the tab "Text to image" that enlarges the picture that is shown, and lays it over the small one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from pipelines.core.errors import SettingsError, StepwiseError
from pipelines.core.types import Request
from pipelines.upscaling.upscalers import DEFAULT_UPSCALER
from pipelines.workflows.upscale import MOST_FACTOR
from studio.jobs.job import Job, View
from studio.media.live_image import encode_picture_url, encode_png_url
from studio.results.search import extract_settings
from studio.ui import markup, presentation
from studio.ui.asking import list_visible_results
from studio.ui.before_after import build_frame, show_only
from studio.ui.component_data import Data
from studio.ui.live_routes import LiveTab, Parts
from studio.ui.page_context import Lists, PageContext
from studio.ui.results_route import find_address
from studio.ui.running_tab import Form, RunningTab
from studio.ui.upscaler_choice import list_upscaler_choices
from studio.ui.viewer import encode_preview

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "UpscalePanel"]

KEY = "upscale"
_FIELDS = ("factor", "upscaler", "strength")


class UpscalePanel(RunningTab):
    """Holds a run of its own below the picture, whose source is the picture that is shown.

    Args:
        studio: the backend.
        context: the page around the tab.
        picture_root: id of the column in which the picture is.
    """

    key, root, draws = KEY, "t2i-upscale", False

    def __init__(self, studio: Studio, context: PageContext, picture_root: str):
        self.studio, self.context, self._picture_root = studio, context, picture_root
        self.session = context.sessions[KEY]
        self.fold = gr.Accordion(
            "Upscale the picture", open=False, elem_id="t2i-upscale-fold", elem_classes="sw-acts-block"
        )
        with self.fold, gr.Column(elem_classes="sw-measuring", elem_id=self.root):
            self._build()

    def _build(self) -> None:
        self.source = gr.Textbox(label="Result", visible=False)
        with gr.Row():
            self.factor = gr.Slider(
                1, MOST_FACTOR, value=2, step=0.5, label="Factor", buttons=[], elem_id="t2i-upscale-factor"
            )
            self.upscaler = gr.Dropdown(
                list_upscaler_choices(self.studio),
                value=DEFAULT_UPSCALER,
                label="Upscaler",
                filterable=False,
                elem_id="t2i-upscale-upscaler",
            )
        self.strength = gr.Slider(
            0,
            1,
            value=0,
            step=0.05,
            label="Denoising strength",
            info="0 only enlarges; above it, this share of the steps is run again at the new size.",
            buttons=[],
            elem_id="t2i-upscale-strength",
        )
        self.run = gr.Button("Upscale", variant="primary", elem_id="t2i-upscale-run", elem_classes="sw-measure")
        self.stop = gr.Button("Stop", variant="stop", elem_id="t2i-upscale-stop", elem_classes="sw-stop")
        self.notice = gr.HTML(elem_id="t2i-upscale-notice", elem_classes="sw-notices")
        prefix, empty = self.root, "<p class='sw-hint'>The enlarged picture lies over the small one.</p>"
        gr.HTML(
            f'<div class="sw-show">{build_frame(prefix, empty)}'
            f'<div id="{prefix}-progress"></div><div id="{prefix}-figures"></div></div>',
            js_on_load=f"window.stepwise.mounted({KEY!r}, {prefix!r})",
        )

    def wire(self) -> None:
        """Connect the buttons."""
        typed = {getattr(self, name) for name in _FIELDS}
        script = f"stepwise.shownResult(document.getElementById({self._picture_root!r}))"
        shown: dict[Component, str] = {self.source: script}
        form = Form({*typed, self.source}, self._read, typed, self._refill, draft=self._typed, typed=typed, shown=shown)
        self.context.lists[KEY] = Lists(
            {self.upscaler}, {self.upscaler}, lambda data: {self.upscaler: gr.update(choices=self._list_choices())}
        )
        self._wire_run(form, LiveTab(KEY, form.read, self._build_renderer))

    def _list_choices(self) -> list[tuple[str, str]]:
        return list_upscaler_choices(self.studio)

    def _read(self, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
        typed = self._typed(data)
        try:
            record = list_visible_results(self.studio).get(str(data[self.source] or ""))
        except StepwiseError:
            raise SettingsError("There is no finished picture to enlarge, or it was deleted. Generate one.") from None
        made = extract_settings(record) or {}
        base = {name: value for name, value in made.items() if name in Request.__dataclass_fields__}
        return typed, {**typed, "base": {**base, "batch_size": 1} if base else {}, "picture": record.path.read_bytes()}

    def _typed(self, data: Data) -> dict[str, Any]:
        return {name: data[getattr(self, name)] for name in _FIELDS}

    def _refill(self, draft: object) -> Data:
        if not isinstance(draft, Mapping) or not draft.keys() >= set(_FIELDS):
            return {}
        values = {getattr(self, name): draft[name] for name in ("factor", "strength")}
        is_known = draft["upscaler"] in {key for _, key in self._list_choices()}
        return {**values, **({self.upscaler: draft["upscaler"]} if is_known else {})}

    def _build_renderer(self, job: Job) -> Callable[[View], Parts]:
        def render(view: View) -> Parts:
            return {f"{self.root}-{name}": part for name, part in _render(view, job, self.studio).items()}

        return render


def _render(view: View, job: Job, studio: Studio) -> Parts:
    """Show the steps of a second pass, and then the two pictures under the slider."""
    done, total = sum(len(cell.rows) for cell in view.cells), sum(cell.num_steps for cell in view.cells)
    progress = markup.progress(view.status, presentation.list_progress_parts(view), done, total)
    parts: Parts = {"progress": {"html": progress}, "figures": {"html": ""}}
    if not view.cells:
        return parts
    (cell,) = view.cells
    if cell.frames:
        parts |= show_only("picture") | {"hero": {"src": encode_preview(cell.preview[0])}}
    if view.status.final and cell.images is not None:
        address = find_address(studio.store, cell.results[0]) if cell.results else None
        after = {"file": address} if address else {"src": encode_png_url(cell.images[0])}
        parts |= show_only("slider") | {
            "before": {"src": encode_picture_url(job.request.picture.pixels)},
            "after": after,
            "download": {**after, "download": ""},
            "tools": {"hidden": None},
            "figures": {"html": _build_figures(view, job)},
        }
    return parts


def _build_figures(view: View, job: Job) -> str:
    (cell,) = view.cells
    if cell.images is None:
        return ""
    sizes = [f"{width} × {height}" for width, height in (job.request.picture.size, cell.images.shape[2:0:-1])]
    pairs = [("Size", " → ".join(sizes)), ("Upscaler", job.request.upscaler)]
    if evaluations := cell.figures.get("evaluations"):
        pairs.append((presentation.EVALUATIONS, f"{evaluations:g}"))
    pairs.append(("Time", presentation.format_duration(cell.figures["seconds"] or 0)))
    return markup.figures(pairs)

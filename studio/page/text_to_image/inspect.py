"""The part of the tab "Text to image" that looks inside the picture that is shown: a word's map over it, a probe's
curve."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.components import Component
from PIL import Image

from pipelines.core.errors import SettingsError, StepwiseError
from pipelines.core.types import Request
from pipelines.inspection import INSPECTIONS
from studio.jobs.job import Job, View
from studio.media.live_image import encode_picture_url
from studio.results.search import extract_settings
from studio.ui import markup, presentation
from studio.ui.asking import list_visible_results
from studio.ui.component_data import Data
from studio.ui.controls import build_method_controls
from studio.ui.live_routes import LiveTab, Parts
from studio.ui.page_context import PageContext
from studio.ui.running_tab import Form, RunningTab

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "InspectPanel", "encode_map_url", "read_shown", "render_finding"]

KEY = "inspect"
_UNUSED = (
    "cache",
    "second_pass",
    "made_like",
    "vae",
    "control",
    "t2i_adapter",
    "image_prompt",
    "ensemble",
    "sliders",
    "story",
    "search",
    "reward",
)
"""Fields of a picture's request that no inspection takes."""

_HEAT = (240, 96, 24)
_LARGEST_MAP = 256


class InspectPanel(RunningTab):
    """Holds a run of its own below the picture, which looks at the picture that is shown.

    Args:
        studio: the backend.
        context: the page around the tab.
        picture_root: id of the column in which the picture is.
    """

    key, root, draws = KEY, "t2i-inspect", False

    def __init__(self, studio: Studio, context: PageContext, picture_root: str):
        self.studio, self.context, self._picture_root = studio, context, picture_root
        self.session = context.sessions[KEY]
        fold = gr.Accordion("Look inside", open=False, elem_id="t2i-inspect-fold", elem_classes="sw-acts-block")
        with fold, gr.Column(elem_classes="sw-measuring", elem_id=self.root):
            self._build()

    def _build(self) -> None:
        self.source = gr.Textbox(label="Result", visible=False)
        self.inspection = build_method_controls(INSPECTIONS, self.root, label="Look for")
        self.run = gr.Button("Look", variant="primary", elem_id="t2i-inspect-run", elem_classes="sw-measure")
        self.stop = gr.Button("Stop", variant="stop", elem_id="t2i-inspect-stop", elem_classes="sw-stop")
        self.notice = gr.HTML(elem_id="t2i-inspect-notice", elem_classes="sw-notices")
        prefix = self.root
        gr.HTML(
            f'<div class="sw-show"><div id="{prefix}-progress"></div><div id="{prefix}-found"></div></div>',
            js_on_load=f"window.stepwise.mounted({KEY!r}, {prefix!r})",
        )

    def wire(self) -> None:
        """Connect the buttons."""
        controls = {self.inspection.method, *self.inspection.fields}
        script = f"stepwise.shownResult(document.getElementById({self._picture_root!r}))"
        shown: dict[Component, str] = {self.source: script}
        form = Form(
            {*controls, self.source},
            self._read,
            self.inspection.outputs,
            self._refill,
            draft=self._typed,
            typed=controls,
            shown=shown,
        )
        self._wire_run(form, LiveTab(KEY, form.read, self._build_renderer))

    def _read(self, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
        typed = self._typed(data)
        return typed, {**typed, **read_shown(self.studio, data[self.source])}

    def _typed(self, data: Mapping[Any, object]) -> dict[str, Any]:
        return {"inspection": self.inspection.choice(data)}

    def _refill(self, draft: Any) -> Data:
        try:
            return dict(self.inspection.updates(draft["inspection"]))
        except (StepwiseError, KeyError, TypeError):  # written by an older version, or by hand
            return {}

    def _build_renderer(self, job: Job) -> Callable[[View], Parts]:
        return lambda view: {f"{self.root}-{name}": part for name, part in render_finding(view, self.root).items()}


def read_shown(studio: Studio, result: object) -> dict[str, Any]:
    """Read what an inspection is to look at: a stored picture, and the request that made it.

    Args:
        studio: the backend.
        result: the picture's key, untrusted.

    Raises:
        SettingsError: there is no such picture, or it is another person's.
    """
    try:
        record = list_visible_results(studio).get(str(result or ""))
    except StepwiseError:
        raise SettingsError("There is no finished picture to look at, or it was deleted. Generate one.") from None
    made = extract_settings(record) or {}
    base = {name: value for name, value in made.items() if name in Request.__dataclass_fields__}
    # How the picture was made otherwise says nothing of what the model sees in it.
    plain = {name: value for name, value in base.items() if name not in _UNUSED}
    return {"base": {**plain, "batch_size": 1}, "picture": record.path.read_bytes()}


def render_finding(view: View, prefix: str) -> Parts:
    """Render an inspection: its progress, and at the end what was found.

    Args:
        view: of the job.
        prefix: begins the ids within what was found.
    """
    (cell,) = view.cells or (None,)
    done, total = (int(cell.figures.get(name) or 0) for name in ("pieces", "of")) if cell is not None else (0, 0)
    if view.status.final:
        done = total = 0
    progress = markup.progress(view.status, presentation.list_progress_parts(view), done, total)
    parts: Parts = {"progress": {"html": progress}}
    if view.status.final and cell is not None and view.outcome:
        parts["found"] = {"html": _build_found(view.outcome, cell.images, prefix)}
    return parts


def _build_found(outcome: Mapping[str, Any], pictures: np.ndarray | None, prefix: str) -> str:
    """What was found: the picture under the map of a word, or a curve over its pictures; then the figures."""
    maps = {name: np.asarray(values) for name, values in outcome["maps"].items()}
    html = f"<p>{escape(outcome['sentence'])}</p>" if outcome["sentence"] and not maps else ""
    if pictures is None:  # of a job so old that only its numbers remain
        pass
    elif maps:
        html += _build_maps(maps, pictures[0], prefix)
    elif outcome["curve"]:
        strip = "".join(f'<img src="{encode_picture_url(one)}" alt="Point {n + 1}">' for n, one in enumerate(pictures))
        html += f'<div class="sw-probe">{strip}</div>{draw_curve(outcome["curve"], outcome["axes"])}'
    numbers = [(name, presentation.format_number(value)) for name, value in outcome["figures"].items()]
    return html + ("" if maps else markup.figures(numbers))


def _build_maps(maps: Mapping[str, np.ndarray], picture: np.ndarray, prefix: str) -> str:
    """The picture, a map over it, and a button for each: pointed at or pressed it lays its map over the picture."""
    first = max(maps, key=lambda name: _contrast(maps[name]))
    buttons = "".join(
        f'<button type="button" data-map="{encode_map_url(values)}" data-over="{prefix}-map" '
        f'aria-pressed="{str(name == first).lower()}">{escape(name)}</button>'
        for name, values in maps.items()
    )
    source, heat = encode_picture_url(picture), encode_map_url(maps[first])
    alt = f"Where {escape(first)} is seen"
    return f"""<div class="sw-inspected"><div class="sw-mapped"><img src="{source}" alt="The picture">
<img id="{prefix}-map" src="{heat}" alt="{alt}"></div>
<div class="sw-words" role="group" aria-label="Words">{buttons}</div></div>"""


def _contrast(values: np.ndarray) -> float:
    mean = float(np.abs(values).mean())
    return float(values.max() - values.mean()) / mean if mean else 0.0


def encode_map_url(values: np.ndarray) -> str:
    """Encode a map (h, w) as a data URL of a picture of one color, the more opaque the larger the value."""
    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low) if high > low else np.zeros_like(values, dtype=np.float64)
    alpha = Image.fromarray((230 * share).astype(np.uint8))
    scale = max(1, _LARGEST_MAP // max(values.shape))
    alpha = alpha.resize((values.shape[1] * scale, values.shape[0] * scale), Image.Resampling.BILINEAR)
    picture = Image.new("RGBA", alpha.size, (*_HEAT, 0))
    picture.putalpha(alpha)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def draw_curve(points: Sequence[Sequence[float]], axes: Sequence[str]) -> str:
    """Draw the points of a probe as a line, with both axes named, as SVG."""
    width, height, left, bottom = 420.0, 190.0, 52.0, 40.0
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    span_x, top = (max(xs) - min(xs)) or 1.0, max(ys) or 1.0
    places = [
        (left + (x - min(xs)) / span_x * (width - left - 14), height - bottom - y / top * (height - bottom - 16))
        for x, y in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{point[0]:g}: {point[1]:.4f}</title></circle>'
        for (x, y), point in zip(places, points, strict=True)
    )
    return (
        f'<svg class="sw-probe-curve" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(axes[1])} against {escape(axes[0])}">'
        f'<path d="M {left} 8 V {height - bottom} H {width - 8}"/><polyline points="{line}"/>{dots}'
        f'<text x="{left - 6}" y="18" text-anchor="end">{top:.3f}</text>'
        f'<text x="{left - 6}" y="{height - bottom}" text-anchor="end">0</text>'
        f'<text x="{left}" y="{height - bottom + 16}">{min(xs):g}</text>'
        f'<text x="{width - 8}" y="{height - bottom + 16}" text-anchor="end">{max(xs):g}</text>'
        f'<text x="{(left + width) / 2}" y="{height - 6}" text-anchor="middle">{escape(axes[0])}</text>'
        f'<text x="{left + 8}" y="18">{escape(axes[1])}</text></svg>'
    )

"""What is drawn on the source: the mask, and arrows that say where an object goes or what is dragged where."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import gradio as gr

from studio.ui import markup
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING
from studio.ui.outputs import in_order

__all__ = ["Gesture", "Pointing", "add_points", "read_gesture"]

_TOOLS = ("arrow", "clear")
_MOST_TEXT = 500
"""Characters of the points: some twenty arrows."""

_HTML = """<div class="sw-pointing" id="{0}-pointing">
<div class="sw-pointing-tools" role="toolbar" aria-label="Mask tools">
<button type="button" data-tool="brush" aria-pressed="true">Brush</button>
<button type="button" data-tool="erase" aria-pressed="false">Erase</button>
<button type="button" data-tool="box" aria-pressed="false">Box</button>
<button type="button" class="sw-arrows" data-tool="arrow" aria-pressed="false">Arrow</button>
<label class="sw-brush">Size <input type="range" min="1" max="50" value="10"></label>
<button type="button" data-mask="undo" title="Take the last stroke back (Ctrl+Z)">Undo</button>
<button type="button" data-mask="invert" title="Mask everything else">Invert</button>
<button type="button" data-mask="clear">Clear mask</button>
<button type="button" class="sw-arrows" data-tool="clear">Clear arrows</button></div>
<p class="sw-hint sw-arrows">An arrow says where the masked object goes (Move or resize) or what is dragged where
(DragonDiffusion).</p>
<div class="sw-pointing-canvas" data-tab="{0}" tabindex="0" role="group" aria-label="The source: draw the mask here">
<img alt="The source picture under the mask" draggable="false"><canvas></canvas>
<svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true"></svg><i class="sw-ring" hidden></i></div>
<p class="sw-hint sw-without">Choose a source picture to draw on.</p></div>"""


@dataclasses.dataclass(frozen=True)
class Gesture:
    """Describes what was drawn: from (x, y) to (to_x, to_y), in shares of the picture."""

    tool: str
    x: float = 0.0
    y: float = 0.0
    to_x: float = 0.0
    to_y: float = 0.0


def read_gesture(text: str) -> Gesture | None:
    """Read "arrow 0.3 0.5 0.6 0.5 7", the last being a counter of the page; None of anything else."""
    tool, *rest = str(text).split()[:6] or [""]
    if tool == "clear":
        return Gesture(tool)
    try:
        x, y, to_x, to_y = (float(part) for part in rest[:4])
    except ValueError:
        return None
    values = (x, y, to_x, to_y)
    if tool not in _TOOLS or not all(math.isfinite(value) for value in values):
        return None
    return Gesture(tool, *(min(1.0, max(0.0, value)) for value in values))


def add_points(text: str, gesture: Gesture) -> str:
    """Add an arrow to the text of points to drag, as `pipelines.edits.dragon.read_points` reads it."""
    written = f"{gesture.x:.2f},{gesture.y:.2f} > {gesture.to_x:.2f},{gesture.to_y:.2f}"
    text = text.strip().rstrip(";").strip()
    return f"{text}; {written}" if text else written


class Pointing:
    """Lays out the board in the present layout context; assets/js/masks.js and pointing.js draw on it.

    Args:
        tab: begins every id.

    Attributes:
        mask: holds the drawn mask, as `studio.page.edit.mask_text` writes and reads it.
    """

    def __init__(self, tab: str):
        self._tab = tab
        gr.HTML(_HTML.format(tab), js_on_load=f"window.stepwise.pointing({tab!r}); window.stepwise.mask({tab!r})")
        self.mask = gr.Textbox("", elem_id=f"{tab}-mask", elem_classes="sw-unseen", label="Mask", max_lines=1)
        self.drawn = gr.Textbox(elem_id=f"{tab}-gesture", elem_classes="sw-unseen", label="Drawn", max_lines=1)
        # Pressed by the page's script: a textbox tells of what a person types only.
        self.done = gr.Button("Drawn", elem_id=f"{tab}-gesture-done", elem_classes="sw-unseen")

    def wire(self, form: Any, notice: gr.HTML) -> None:
        """Connect what was drawn to the form's settings."""
        self.form, self.notice = form, notice
        self.panel = form.edit.panel
        outputs = in_order([self.panel.component, notice])
        inputs = {self.drawn, form.picture, form.edit.method, self.panel.component}
        self.done.click(self.take, inputs, outputs, **PLUMBING)
        self.mask.change(None, [self.mask], js=f"(text) => window.stepwise.showMask({self._tab!r}, text)", **PLUMBING)

    def take(self, data: Data) -> Data:
        """Give the updates that a gesture makes."""
        gesture = read_gesture(data[self.drawn] or "")
        if gesture is None or not data[self.form.picture]:
            return {self.notice: gr.skip()}
        if gesture.tool == "clear":
            return self._set(data, {"move": {"right": 0.0, "down": 0.0}, "dragon": {"points": ""}})
        return self._add_arrow(data, gesture)

    def _add_arrow(self, data: Data, gesture: Gesture) -> Data:
        method = data[self.form.edit.method]
        if method == "move":
            right, down = gesture.to_x - gesture.x, gesture.to_y - gesture.y
            return self._set(data, {"move": {"right": round(right, 2), "down": round(down, 2)}})
        if method != "dragon":
            text = "Arrows are for Move or resize and for DragonDiffusion. Choose one of them as the edit method."
            return {self.notice: markup.notice(text, "news")}
        text = add_points(self.panel.read(data, "dragon").get("points", ""), gesture)
        if len(text) > _MOST_TEXT:
            return {self.notice: markup.notice("These are too many arrows. Clear them first.")}
        return self._set(data, {"dragon": {"points": text}})

    def _set(self, data: Data, changes: Mapping[str, Mapping[str, Any]]) -> Data:
        return {**self.panel.change(data, changes), self.notice: ""}

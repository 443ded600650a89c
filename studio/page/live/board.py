"""The board of the Live tab, what is drawn and what becomes of it; assets/js/board.js drives it."""

from __future__ import annotations

import dataclasses
from html import escape
from pathlib import Path

import gradio as gr

from studio.jobs.job import Job, JobStatus, View
from studio.ui.example_chips import RESULTS, finished_example
from studio.ui.live_routes import Parts
from studio.ui.viewer import BLANK, encode_preview

__all__ = ["EXAMPLES", "LiveExample", "LiveRenderer", "build_board"]

_COLORS = {
    "Red": "#d22828",
    "Orange": "#e6781e",
    "Yellow": "#f0d23c",
    "Green": "#3ca046",
    "Blue": "#78b4f0",
    "Purple": "#8246be",
    "Pink": "#f096be",
    "Brown": "#78502d",
    "Black": "#141414",
    "Gray": "#969696",
    "White": "#ffffff",
}


@dataclasses.dataclass(frozen=True)
class LiveExample:
    """Describes a drawing to begin with.

    Attributes:
        key: of its button.
        label: on it.
        prompt: what it is to become.
        shapes: ground and shapes in the words of assets/js/board.js, in parts of the side.
    """

    key: str
    label: str
    prompt: str
    shapes: str

    @property
    def result(self) -> Path:
        """Return a small picture of what becomes of it, written by `python -m studio.benchmarks.examples`."""
        return RESULTS / f"live-{self.key}.webp"


EXAMPLES = (
    LiveExample(
        "apple",
        "Apple",
        "a red apple on a blue background",
        "ground #78b4f0; disc .36 .62 .22 #d22828; line .36 .42 .44 .32 .04 #78502d",
    ),
    LiveExample(
        "fox",
        "Fox",
        "a fox on a yellow background",
        "ground #f0d23c; shape .24 .76 .5 .22 .78 .76 #e6781e; disc .43 .58 .04 #141414; disc .58 .58 .04 #141414",
    ),
    LiveExample(
        "pair",
        "Apple and tree",
        "a red apple left of a green tree on a white background",
        "ground #ffffff; disc .25 .45 .18 #d22828; shape .58 .85 .75 .3 .92 .85 #3ca046",
    ),
    LiveExample(
        "rocket",
        "Rocket",
        "a rocket on a black background",
        "ground #141414; shape .42 .75 .42 .35 .5 .2 .58 .35 .58 .75 #969696; shape .42 .6 .3 .8 .42 .75 #d22828; "
        "shape .58 .6 .7 .8 .58 .75 #d22828",
    ),
)


def build_board(tab: str, prefix: str) -> None:
    """Build canvas, tools and picture in the present layout context.

    Args:
        tab: key of the tab whose jobs it shows.
        prefix: begins every id.
    """
    colors = "".join(
        f'<button type="button" class="sw-color" data-color="{value}" style="--color: {value}" title="{name}" '
        f'aria-label="{name}" aria-pressed="{str(name == "Red").lower()}"></button>'
        for name, value in _COLORS.items()
    )
    tools = "".join(
        f'<button type="button" class="sw-board-tool" data-do="{name}" title="{escape(title)}">{label}</button>'
        for name, label, title in (
            ("ground", "Fill", "Paint everything in the chosen color"),
            ("undo", "Undo", "Take the last stroke back"),
            ("clear", "Clear", "Begin on white"),
            ("camera", "Camera", "Take the camera's pictures in place of the drawing"),
        )
    )
    empty = finished_example(
        prefix,
        EXAMPLES[0],
        f"{EXAMPLES[0].prompt}, drawn from the shapes beside it",
        "Draw, and the picture follows",
        "",
    )
    gr.HTML(
        f"""<div class="sw-boards">
<figure class="sw-board"><canvas id="{prefix}-canvas" width="512" height="512" tabindex="0"
  aria-label="Draw here" data-shapes="{escape(EXAMPLES[0].shapes)}"></canvas><video id="{prefix}-camera" muted
  playsinline hidden></video></figure>
<figure class="sw-board sw-drawn"><img id="{prefix}-picture" src="{BLANK}" alt="What becomes of the drawing">
  <figcaption id="{prefix}-rate" class="sw-rate" hidden></figcaption>
  <div class="sw-empty" id="{prefix}-empty">{empty}</div></figure>
<div class="sw-board-tools" role="toolbar" aria-label="Drawing">
  <div class="sw-colors">{colors}</div>
  <label class="sw-brush">Brush <input type="range" id="{prefix}-brush" min="2" max="30" value="9"></label>
  <div class="sw-board-buttons">{tools}</div>
</div>
<div id="{prefix}-progress" class="sw-live-state"></div></div>""",
        js_on_load=f"window.stepwise.mounted({tab!r}, {prefix!r}); window.stepwise.board({tab!r}, {prefix!r});",
    )


class LiveRenderer:
    """Turns a session's views into what the board shows.

    Args:
        prefix: of the board's ids.
        job: of the task "live".
    """

    def __init__(self, prefix: str, job: Job):
        self._prefix, self._job = prefix, job
        self._encoded: tuple[object, str] = (None, BLANK)

    def __call__(self, view: View) -> Parts:
        """Parts that show a view; the last picture stays when the session is over."""
        parts: Parts = {"progress": {"html": f"<p>{escape(_describe(view))}</p>"}}
        cell = view.cells[0] if view.cells else None
        if cell is not None and cell.images is not None:
            if self._encoded[0] is not cell.images:
                self._encoded = cell.images, encode_preview(cell.images[0])
            parts |= {"picture": {"src": self._encoded[1]}, "empty": {"hidden": ""}}
        rate = cell.figures.get("fps") if cell is not None else None
        shown = rate is not None and view.status is JobStatus.RUNNING
        parts["rate"] = {
            "hidden": None if shown else "",
            "html": f"{rate:.1f} frames a second" if shown else "",
        }
        return {f"{self._prefix}-{name}": part for name, part in parts.items()}


def _describe(view: View) -> str:
    """Say in a line how the session stands."""
    cell = view.cells[0] if view.cells else None
    saved = f"{len(cell.results)} saved to the gallery." if cell is not None and cell.results else ""
    note = cell.note if cell is not None else ""
    state = {
        JobStatus.QUEUED: "Another run has the device; the picture goes on after it.",
        JobStatus.LOADING: view.message or "Loading the model…",
        JobStatus.CANCELLED: "Stopped.",
    }.get(view.status, "")
    return " ".join(filter(None, (state, note, saved)))

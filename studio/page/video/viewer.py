"""The right half of the Video tab: the frame in work, the strip of the whole clip, and the clip when it is done."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.jobs.job import Cell, Job, View
from studio.media.clips import strip
from studio.media.live_image import jpeg
from studio.ui import markup, presentation
from studio.ui.live_routes import Parts
from studio.ui.results_route import address_of

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["ClipRenderer", "build_video_viewer"]

_BLANK = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="  # one transparent pixel
_EMPTY = """
<div class="sw-empty-inner">
  <svg viewBox="0 0 300 60" role="img" aria-label="A circle that moves and changes over five frames">FRAMES</svg>
  <p class="sw-empty-title">From one picture to the next</p>
  <p>Animate: the frames appear as they are denoised, the strip below shows the whole clip, and at the end it plays
  here.</p>
</div>
""".replace(
    "FRAMES",
    "".join(
        f'<g transform="translate({4 + 60 * i} 4)"><rect width="52" height="52" rx="10" class="sw-emerge-ground"/>'
        f'<circle cx="{14 + 6 * i}" cy="{36 - 5 * i}" r="{7 + i}" class="sw-emerge-sun"/></g>'
        for i in range(5)
    ),
)


def build_video_viewer(tab: str, prefix: str) -> None:
    """The viewer in the present layout context.

    Args:
        tab: key of the tab whose jobs it shows.
        prefix: begins every id, and is the id of the tab's outermost column.
    """
    gr.HTML(f'<div class="sw-show">{_show(prefix)}</div>', js_on_load=f"window.stepwise.mounted({tab!r}, {prefix!r})")


def _show(prefix: str) -> str:
    return f"""
<div class="sw-frame">
  <div class="sw-empty" id="{prefix}-empty">{_EMPTY}</div>
  <div class="sw-hero" id="{prefix}-picture" hidden>
    <img id="{prefix}-hero" src="{_BLANK}" alt="The frame in work">
    <video id="{prefix}-clip" controls loop muted autoplay playsinline hidden></video>
    <div class="sw-tools" id="{prefix}-tools" hidden>
      <a id="{prefix}-download" class="sw-tool" href="#" download title="Download">{markup.ICON_DOWNLOAD}<span
        class="sw-away">Download</span></a>
    </div>
  </div>
</div>
<div id="{prefix}-progress"></div>
<img id="{prefix}-strip" class="sw-film" src="{_BLANK}" alt="Eight frames of the clip" hidden>
<div id="{prefix}-figures"></div>"""


class ClipRenderer:
    """From a job's views to what the viewer shows.

    Args:
        studio: for the stored file and the model's name.
        prefix: of the viewer's ids.
        job: of the task "animate".
    """

    def __init__(self, studio: Studio, prefix: str, job: Job):
        self._studio, self._prefix, self._job = studio, prefix, job

    def __call__(self, view: View) -> Parts:
        """Parts that show a view; the last clip stays until the first preview of the next run."""
        parts: dict[str, Any] = {"progress": {"html": self._progress(view)}, "figures": {"html": ""}}
        cell = view.cells[0] if view.cells else None
        if cell is not None and cell.frames:
            parts |= self._working(cell)
        if (
            cell is not None and view.status.final and (cell.results or cell.clip)
        ):  # a failed one, too: the disk was full
            parts |= self._finished(view, cell)
        return {f"{self._prefix}-{name}": part for name, part in parts.items()}

    def _progress(self, view: View) -> str:
        done, total = sum(len(cell.rows) for cell in view.cells), sum(cell.num_steps for cell in view.cells)
        words = presentation.progress(view)
        if words[0] == "Decoding the picture":
            words[0] = "Decoding the frames"
        frames = self._job.request.frames
        finished = view.cells[0].frames[-1].finished if view.cells and view.cells[0].frames else 0
        if finished and not view.status.final:
            words.insert(1, f"{finished} of {frames} frames finished")
        return markup.progress(view.status, words, done, total)

    @staticmethod
    def _working(cell: Cell) -> Parts:
        frame = cell.frames[-1]
        shown = frame.denoised[len(frame.denoised) // 2]
        return {
            "hero": {"src": _url(jpeg(shown), "image/jpeg"), "hidden": None},
            "strip": {"src": _url(strip(frame.strip), "image/webp"), "hidden": None},
            "clip": {"hidden": ""},
            "tools": {"hidden": ""},
            "picture": {"hidden": None},
            "empty": {"hidden": ""},
        }

    def _finished(self, view: View, cell: Cell) -> Parts:
        parts: dict[str, Any] = {"figures": {"html": self._figures(view, cell)}}
        if cell.images is not None:
            parts["strip"] = {"src": _url(strip(cell.images), "image/webp"), "hidden": None}
        made = self._made(cell)
        if not made:
            return parts
        plays = self._job.request.format == "mp4"
        parts |= {
            "picture": {"hidden": None},
            "empty": {"hidden": ""},
            "tools": {"hidden": None},
            "download": made,
        }
        parts["clip"] = {**made, "hidden": None} if plays else {"hidden": ""}
        parts["hero"] = {"hidden": ""} if plays else {**made, "hidden": None}
        return parts

    def _made(self, cell: Cell) -> dict[str, str]:
        """The stored clip or, where it could not be stored, the clip itself; nothing where it was deleted."""
        format = self._job.request.format
        if cell.clip:
            return {"src": _url(cell.clip, f"{'video' if format == 'mp4' else 'image'}/{format}")}
        stored = address_of(self._studio.store, cell.results[0])
        return {"file": stored} if stored else {}

    def _figures(self, view: View, cell: Cell) -> str:
        request, outcome = self._job.request, view.outcome
        label = next((one.label for one in self._studio.models() if one.key == request.base.model), request.base.model)
        width, height = outcome.get("size", (0, 0))
        pairs = [
            ("Frames", f"{request.frames} at {request.fps} fps"),
            ("Length", presentation.duration(request.frames / request.fps)),
            ("Size", f"{width} × {height}"),
            ("Steps", str(request.base.num_inference_steps)),
            ("Sampling", presentation.duration(cell.figures.get("seconds") or view.seconds)),
            ("Seed", str(request.base.seed)),
            ("Model", label),
        ]
        note = f'<p class="sw-hint">{markup.escape(cell.note)}</p>' if cell.note else ""
        return markup.figures(pairs) + note


def _url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"

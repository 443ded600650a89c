"""The right half of the Video tab: the frame in work, the strip of the whole clip, and the clip when it is done."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, cast

import gradio as gr

from studio.jobs.job import Cell, Job, View
from studio.media.clips import strip
from studio.media.live_image import encode_jpeg, encode_png_url
from studio.ui import markup, presentation
from studio.ui.example_chips import ShownExample, finished_example
from studio.ui.live_routes import Parts
from studio.ui.results_route import find_address

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.tasks.runs.animate import ClipFrame

__all__ = ["ClipRenderer", "build_video_viewer"]

_BLANK = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="  # one transparent pixel
_TITLE = "Pictures that move"
_TEXT = "Animate: frames appear as they are denoised, the strip shows the whole clip, and then it plays here."


def build_video_viewer(tab: str, prefix: str, example: ShownExample) -> None:
    """Build the viewer in the present layout context.

    Args:
        tab: key of the tab whose jobs it shows.
        prefix: begins every id, and is the id of the tab's outermost column.
        example: shown before the first clip.
    """
    empty = finished_example(prefix, example, f"{example.label}: nine frames of the clip", _TITLE, _TEXT)
    viewer_html = f'<div class="sw-show">{_show(prefix, empty)}</div>'
    gr.HTML(viewer_html, js_on_load=f"window.stepwise.mounted({tab!r}, {prefix!r})")


def _show(prefix: str, empty: str) -> str:
    return f"""
<div class="sw-frame">
  <div class="sw-empty" id="{prefix}-empty">{empty}</div>
  <div class="sw-hero" id="{prefix}-picture" hidden>
    <img id="{prefix}-hero" src="{_BLANK}" alt="The current frame">
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
    """Turns a job's views into what the viewer shows.

    Args:
        studio: for the stored file and the model's name.
        prefix: of the viewer's ids.
        job: of the task "animate".
    """

    def __init__(self, studio: Studio, prefix: str, job: Job):
        self._studio, self._prefix, self._job = studio, prefix, job

    def __call__(self, view: View) -> Parts:
        """Parts that show a view; the last clip stays until the first preview of the next run."""
        parts: dict[str, Any] = {"progress": {"html": self._build_progress(view)}, "figures": {"html": ""}}
        cell = view.cells[0] if view.cells else None
        if cell is not None and cell.frames:
            parts |= self._build_working(cell)
        if (
            cell is not None and view.status.final and (cell.results or cell.clip)
        ):  # a failed one, too: the disk was full
            parts |= self._build_finished(view, cell)
        elif cell is not None and view.status.final and cell.frames:  # stopped: the frame that was reached
            frames = cell.frames[-1].denoised
            reached = {
                "src": encode_png_url(frames[len(frames) // 2]),
                "download": f"{self._job.id}-stopped.png",
            }
            parts |= {"tools": {"hidden": None}, "download": reached}
        return {f"{self._prefix}-{name}": part for name, part in parts.items()}

    def _build_progress(self, view: View) -> str:
        steps_done, total = sum(len(cell.rows) for cell in view.cells), sum(cell.num_steps for cell in view.cells)
        words = presentation.list_progress_parts(view)
        if words[0] == "Decoding the picture":
            words[0] = "Decoding the frames"
        frames = self._job.request.frames
        finished = _get_clip_frame(view.cells[0]).finished if view.cells and view.cells[0].frames else 0
        if finished and not view.status.final:
            words.insert(1, f"{finished} of {frames} frames finished")
        return markup.progress(view.status, words, steps_done, total)

    @staticmethod
    def _build_working(cell: Cell) -> Parts:
        frame = _get_clip_frame(cell)
        picture = frame.denoised[len(frame.denoised) // 2]
        return {
            "hero": {"src": _encode_url(encode_jpeg(picture), "image/jpeg"), "hidden": None},
            "strip": {"src": _encode_url(strip(frame.strip), "image/webp"), "hidden": None},
            "clip": {"hidden": ""},
            "tools": {"hidden": ""},
            "picture": {"hidden": None},
            "empty": {"hidden": ""},
        }

    def _build_finished(self, view: View, cell: Cell) -> Parts:
        parts: dict[str, Any] = {"figures": {"html": self._build_figures(view, cell)}}
        if cell.images is not None:
            parts["strip"] = {"src": _encode_url(strip(cell.images), "image/webp"), "hidden": None}
        clip = self._find_clip(cell)
        if not clip:
            return parts
        plays = self._job.request.format == "mp4"
        parts |= {
            "picture": {"hidden": None},
            "empty": {"hidden": ""},
            "tools": {"hidden": None},
            "download": {**clip, "download": ""},
        }
        parts["clip"] = {**clip, "hidden": None} if plays else {"hidden": ""}
        parts["hero"] = {"hidden": ""} if plays else {**clip, "hidden": None}
        return parts

    def _find_clip(self, cell: Cell) -> dict[str, str]:
        """The stored clip or, where it could not be stored, the clip itself; nothing where it was deleted."""
        format = self._job.request.format
        if cell.clip:
            return {"src": _encode_url(cell.clip, f"{'video' if format == 'mp4' else 'image'}/{format}")}
        address = find_address(self._studio.store, cell.results[0])
        return {"file": address} if address else {}

    def _build_figures(self, view: View, cell: Cell) -> str:
        request, outcome = self._job.request, view.outcome
        label = next((one.label for one in self._studio.models() if one.key == request.base.model), request.base.model)
        width, height = outcome.get("size", (0, 0))
        pairs = [
            ("Frames", f"{request.frames} at {request.fps} fps"),
            ("Length", presentation.format_duration(request.frames / request.fps)),
            ("Size", f"{width} × {height}"),
            ("Steps", str(request.base.num_inference_steps)),
            ("Sampling", presentation.format_duration(cell.figures.get("seconds") or view.seconds)),
            ("Seed", str(request.base.seed)),
            ("Model", label),
        ]
        note = f'<p class="sw-hint">{markup.prose(cell.note)}</p>' if cell.note else ""
        return markup.figures(pairs) + note


def _encode_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _get_clip_frame(cell: Cell) -> ClipFrame:
    """The latest step of a clip; the task "animate" adds no other frames."""
    return cast("ClipFrame", cell.frames[-1])

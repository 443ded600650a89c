"""The right half of a generating tab: the picture, its progress, and the trajectory that led to it.

All of it is HTML of our own that live.py's stream changes in place; Gradio only puts it onto the page.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from studio.jobs.job import Job, View
from studio.media.live_image import contact_sheet, jpeg, png_url
from studio.ui import markup, presentation
from studio.ui.live_routes import Parts
from studio.ui.results_route import address_of

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["BLANK", "ViewerRenderer", "build_viewer", "preview_url"]

BLANK = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="  # one transparent pixel


def build_viewer(tab: str, prefix: str) -> None:
    """The viewer in the present layout context.

    Args:
        tab: key of the tab whose jobs it shows.
        prefix: begins every id, and is the id of the tab's outermost column.
    """
    on_load = f"window.stepwise.mounted({tab!r}, {prefix!r})"
    gr.HTML(f'<div class="sw-show">{_show(prefix)}</div>', js_on_load=on_load)
    trajectory = f'<div class="sw-trajectory" id="{prefix}-trajectory">{_trajectory(tab, prefix)}</div>'
    gr.HTML(trajectory, js_on_load=on_load)


def _show(prefix: str) -> str:
    return f"""
<div class="sw-frame">
  <div class="sw-empty" id="{prefix}-empty">{markup.EMPTY_STAGE}</div>
  <div class="sw-hero" id="{prefix}-picture" hidden>
    <img id="{prefix}-hero" src="{BLANK}" alt="The generated picture">
    <div class="sw-tools" id="{prefix}-tools" hidden>
      <a id="{prefix}-download" class="sw-tool" href="#" download title="Download">{markup.ICON_DOWNLOAD}<span
        class="sw-away">Download</span></a>
      <button type="button" class="sw-tool" data-fullscreen title="Full screen">{markup.ICON_FULLSCREEN}<span
        class="sw-away">Full screen</span></button>
    </div>
  </div>
</div>
<div id="{prefix}-progress"></div>
<div id="{prefix}-batch" class="sw-strip" role="group" aria-label="Pictures of this batch" hidden></div>
<div id="{prefix}-figures"></div>"""


def _trajectory(tab: str, prefix: str) -> str:
    def small(name: str, label: str, alt: str) -> str:
        image = f'<img id="{prefix}-{name}-image" src="{BLANK}" alt="{alt}">'
        return f'<figure class="sw-small" id="{prefix}-{name}"><figcaption>{label}</figcaption>{image}</figure>'

    noisy = small("noisy", "Noisy latents", "The noisy latents at this step")
    denoised = small("denoised", "Estimate x̂", "The estimate of the finished picture at this step")
    return f"""
<h2>Trajectory</h2>
<div class="sw-pair">{noisy}{denoised}</div>
<div id="{prefix}-scrubber" class="sw-scrubber"><label for="{prefix}-scrubber-range">Step</label>
  <input type="range" id="{prefix}-scrubber-range" data-scrub="{tab}" min="1" max="2" value="1" step="1" disabled></div>
<div id="{prefix}-caption">{markup.EMPTY_TRAJECTORY}</div>"""


class ViewerRenderer:
    """From a job's views to what the viewer shows.

    Args:
        studio: for the stored files and the models' names.
        prefix: of the viewer's ids.
        job: of text to image.
    """

    def __init__(self, studio: Studio, prefix: str, job: Job):
        self._studio, self._prefix, self._job = studio, prefix, job

    def __call__(self, view: View) -> Parts:
        """Parts that show a view; the last picture stays until the first preview of the next run."""
        done, parts = len(view.cells[0].frames) if view.cells else 0, self._words(view)
        if done:
            frame = view.cells[0].frames[-1]
            parts |= self._pictures(frame.noisy, frame.denoised) | self._at(view, done)
        if view.status.final and view.cells and (view.cells[0].results or view.cells[0].images is not None):
            parts |= self._finished(view)
        return self._named(parts)

    def at_step(self, step: int, sharp: bool) -> Parts:
        """Parts that show a step of the trajectory, from 1.

        Args:
            sharp: decode the step's latents anew where the model is at hand, instead of the small preview.
        """
        view = self._job.view()
        frames = view.cells[0].frames if view.cells else []
        if not frames:
            return {}
        step = min(max(1, step), len(frames))
        if sharp:
            noisy, denoised = self._studio.decode_frame(self._job.id, 0, step - 1)
        else:
            noisy, denoised = frames[step - 1].noisy, frames[step - 1].denoised
        parts = {**self._pictures(noisy, denoised), "caption": {"html": _caption(view, step)}}
        if step == len(frames) and (made := self._made(view)):
            parts["hero"] = made[0]
        return self._named(parts)

    def _named(self, parts: Parts) -> Parts:
        return {f"{self._prefix}-{name}": part for name, part in parts.items()}

    def _words(self, view: View) -> Parts:
        total = sum(cell.num_steps for cell in view.cells)
        done = sum(len(cell.rows) for cell in view.cells)
        progress = markup.progress(view.status, presentation.progress(view), done, total)
        return {
            "progress": {"html": progress},
            "figures": {"html": ""},
            "batch": {"html": "", "hidden": ""},
        }

    @staticmethod
    def _pictures(noisy: np.ndarray, denoised: np.ndarray) -> Parts:
        estimate = preview_url(denoised)
        return {
            "noisy-image": {"src": preview_url(noisy)},
            "denoised-image": {"src": estimate},
            "hero": {"src": estimate},
            "tools": {"hidden": ""},
            "picture": {"hidden": None},
            "empty": {"hidden": ""},
        }

    @staticmethod
    def _at(view: View, done: int) -> Parts:
        final = view.status.final
        most = max(2, done if final else view.cells[0].num_steps)
        # Its range first: a value beyond the old one would be cut.
        scrubber = {"max": most, "disabled": None if final and done > 1 else "", "value": done}
        return {"scrubber-range": scrubber, "caption": {"html": _caption(view, done)}}

    def _finished(self, view: View) -> Parts:
        job = self._job
        made = self._made(view)
        label = next((one.label for one in self._studio.models() if one.key == job.request.model), job.request.model)
        note = view.cells[0].note
        hint = f"<p class='sw-hint'>{markup.escape(note)}</p>" if note else ""
        parts: dict[str, Any] = {
            "figures": {"html": markup.figures(presentation.figures(view, job.request, label)) + hint}
        }
        if made:
            parts |= {"hero": made[0], "download": made[0], "tools": {"hidden": None}}
        if len(made) > 1:
            parts["batch"] = {"html": self._strip(made), "hidden": None}
        return parts

    def _strip(self, made: Sequence[Mapping[str, str]]) -> str:
        names = {"file": "data-file", "src": "src"}
        return "".join(
            f'<button type="button" class="thumbnail-item" data-shows="{self._prefix}-picture">'
            f'<img {names[kind]}="{markup.escape(source)}" alt="Picture {place} of this batch"></button>'
            for place, one in enumerate(made, 1)
            for kind, source in one.items()
        )

    def _made(self, view: View) -> list[dict[str, str]]:
        """Each finished picture: its stored file or, where it could not be stored, the picture itself."""
        results, images = view.cells[0].results, view.cells[0].images
        unstored = () if images is None else images[len(results) :]
        stored = (address_of(self._studio.store, result) for result in results)
        return [{"file": one} for one in stored if one] + [{"src": png_url(image)} for image in unstored]


def preview_url(pictures: np.ndarray) -> str:
    """A small JPEG as a data URL: of a picture (H, W, 3) or of a batch side by side, uint8."""
    encoded = base64.b64encode(jpeg(contact_sheet(pictures if pictures.ndim == 4 else pictures[None])))
    return "data:image/jpeg;base64," + encoded.decode("ascii")


def _caption(view: View, step: int) -> str:
    rows = view.cells[0].rows
    total = view.cells[0].num_steps or len(rows)
    return markup.noise_curve(rows, step, total) + markup.figures(presentation.step_figures(view, step))

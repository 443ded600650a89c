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
from studio.media.live_image import build_contact_sheet, encode_jpeg, encode_png_url
from studio.ui import markup, presentation
from studio.ui.live_routes import Parts
from studio.ui.population import build_parts
from studio.ui.results_route import find_address

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["BLANK", "ViewerRenderer", "build_viewer", "encode_preview"]

BLANK = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="  # one transparent pixel


def build_viewer(tab: str, prefix: str, empty: str) -> None:
    """Build the viewer in the present layout context.

    Args:
        tab: key of the tab whose jobs it shows.
        prefix: begins every id, and is the id of the tab's outermost column.
        empty: HTML that stands there before the first picture.
    """
    on_load = f"window.stepwise.mounted({tab!r}, {prefix!r})"
    gr.HTML(f'<div class="sw-show">{_show(prefix, empty)}</div>', js_on_load=on_load)
    trajectory = f'<div class="sw-trajectory" id="{prefix}-trajectory">{_build_trajectory(tab, prefix)}</div>'
    gr.HTML(trajectory, js_on_load=on_load)


def _show(prefix: str, empty: str) -> str:
    return f"""
<div class="sw-frame">
  <div class="sw-empty" id="{prefix}-empty">{empty}</div>
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


def _build_trajectory(tab: str, prefix: str) -> str:
    def small(name: str, label: str, alt: str) -> str:
        image = f'<img id="{prefix}-{name}-image" src="{BLANK}" alt="{alt}">'
        caption = f"<figcaption>{markup.term(label)}</figcaption>"
        return f'<figure class="sw-small" id="{prefix}-{name}">{caption}{image}</figure>'

    noisy = small("noisy", "Noisy latents", "The noisy latents at this step")
    denoised = small("denoised", "Preview x̂₀", "The preview of the finished picture at this step")
    return f"""
<h2>Trajectory</h2>
<div class="sw-pair">{noisy}{denoised}</div>
<div id="{prefix}-scrubber" class="sw-scrubber"><label for="{prefix}-scrubber-range">Step</label>
  <input type="range" id="{prefix}-scrubber-range" data-scrub="{tab}" min="1" max="2" value="1" step="1" disabled>
  <button type="button" class="sw-tool sw-play" data-play="{prefix}-scrubber-range"
    title="Play the steps">{markup.ICON_PLAY}<span class="sw-away">Play the steps</span></button></div>
<div id="{prefix}-caption">{markup.EMPTY_TRAJECTORY}</div>"""


class ViewerRenderer:
    """Turns a job's views into what the viewer shows.

    Args:
        studio: for the stored files and the models' names.
        prefix: of the viewer's ids.
        job: of text to image.
    """

    def __init__(self, studio: Studio, prefix: str, job: Job):
        self._studio, self._prefix, self._job = studio, prefix, job

    def __call__(self, view: View) -> Parts:
        """Parts that show a view; the last picture stays until the first preview of the next run."""
        done, parts = len(view.cells[0].frames) if view.cells else 0, self._build_texts(view)
        if done:
            frame = view.cells[0].frames[-1]
            parts |= self._build_pictures(frame.noisy, view.cells[0].preview) | self._build_position(view, done)
        population = view.population
        if population is not None:
            stored = next((picture for picture in self._list_finished_pictures(view)), {})
            parts |= build_parts(view, population, self._prefix, stored)
        if view.status.final and view.cells and (view.cells[0].results or view.cells[0].images is not None):
            parts |= self._build_finished(view)
        elif view.status.final and done:  # stopped or failed: what was reached can be taken away
            parts |= {"tools": {"hidden": None}, "download": self._step_file(frame.denoised, done)}
        return self._prefix_names(parts)

    def at_step(self, step: int, sharp: bool) -> Parts:
        """Return the parts that show a step of the trajectory, from 1.

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
        parts = {**self._build_pictures(noisy, denoised), "caption": {"html": _build_caption(view, step)}}
        if step == len(frames) and (pictures := self._list_finished_pictures(view)):
            parts |= {"hero": pictures[0], "download": _to_keep(pictures[0])}
        elif view.status.final:
            parts["download"] = self._step_file(denoised, step)
        if view.status.final:
            parts["tools"] = {"hidden": None}
        return self._prefix_names(parts)

    def _step_file(self, denoised: np.ndarray, step: int) -> dict[str, str]:
        """The link to a step's estimate as a PNG: of a batch all pictures, side by side."""
        sheet = build_contact_sheet(denoised if denoised.ndim == 4 else denoised[None])
        return {"src": encode_png_url(sheet), "download": f"{self._job.id}-step-{step}.png"}

    def _prefix_names(self, parts: Parts) -> Parts:
        return {f"{self._prefix}-{name}": part for name, part in parts.items()}

    def _build_texts(self, view: View) -> Parts:
        total = sum(cell.num_steps for cell in view.cells)
        done = sum(len(cell.rows) for cell in view.cells)
        if view.population is not None:
            done, total = round(view.population.spent), view.population.budget
        progress = markup.progress(view.status, presentation.list_progress_parts(view), done, total)
        return {
            "progress": {"html": progress},
            "figures": {"html": ""},
            "batch": {"html": "", "hidden": ""},
        }

    @staticmethod
    def _build_pictures(noisy: np.ndarray, denoised: np.ndarray) -> Parts:
        estimate = encode_preview(denoised)
        return {
            "noisy-image": {"src": encode_preview(noisy)},
            "denoised-image": {"src": estimate},
            "hero": {"src": estimate, **_NO_RESULT},
            "tools": {"hidden": ""},
            "picture": {"hidden": None},
            "empty": {"hidden": ""},
        }

    @staticmethod
    def _build_position(view: View, done: int) -> Parts:
        final = view.status.final
        last_step = max(2, done if final else view.cells[0].num_steps)
        # Its range first: a value beyond the old one would be cut.
        scrubber = {"max": last_step, "disabled": None if final and done > 1 else "", "value": done}
        return {"scrubber-range": scrubber, "caption": {"html": _build_caption(view, done)}}

    def _build_finished(self, view: View) -> Parts:
        job = self._job
        pictures = self._list_finished_pictures(view)
        label = next((one.label for one in self._studio.models() if one.key == job.request.model), job.request.model)
        note = view.cells[0].note
        hint = f"<p class='sw-hint'>{markup.prose(note)}</p>" if note else ""
        parts: dict[str, Any] = {
            "figures": {"html": markup.figures(presentation.list_figures(view, job.request, label)) + hint}
        }
        if pictures:
            parts |= {"hero": pictures[0], "download": _to_keep(pictures[0]), "tools": {"hidden": None}}
        if len(pictures) > 1 and view.population is None:
            parts["batch"] = {"html": self._build_strip(pictures), "hidden": None}
        return parts

    def _build_strip(self, pictures: Sequence[Mapping[str, object]]) -> str:
        return "".join(self._thumbnail(place, picture) for place, picture in enumerate(pictures, 1))

    def _thumbnail(self, place: int, picture: Mapping[str, object]) -> str:
        source = f'data-file="{picture["file"]}"' if "file" in picture else f'src="{picture["src"]}"'
        attributes = "".join(f' {name}="{value}"' for name, value in picture.items() if name in _NO_RESULT and value)
        alternative_text = f"Picture {place} of this batch, seed {picture['data-seed']}"
        return (
            f'<button type="button" class="thumbnail-item" data-shows="{self._prefix}-picture"{attributes} '
            f'aria-pressed="{"true" if place == 1 else "false"}" title="Seed {picture["data-seed"]}">'
            f'<img {source} alt="{alternative_text}"><small>{picture["data-seed"]}</small></button>'
        )

    def _list_finished_pictures(self, view: View) -> list[dict[str, Any]]:
        """Each finished picture: its stored file or, where it could not be stored, the picture itself; and its seed."""
        results, images = view.cells[0].results, view.cells[0].images
        pictures: list[dict[str, Any]] = []
        for place, result in enumerate(results):
            if stored := find_address(self._studio.store, result):
                pictures.append({"file": stored, "data-result": result, "data-seed": self._find_seed(view, place)})
        for place, image in enumerate(() if images is None else images[len(results) :], len(results)):
            seed = self._find_seed(view, place)
            pictures.append({"src": encode_png_url(image), "data-result": None, "data-seed": seed})
        return pictures

    def _find_seed(self, view: View, place: int) -> str | None:
        """The seed that makes a picture of the batch; None of a search's that no seed alone makes."""
        if view.population is None:
            return str(self._job.request.seed + place)
        seed = view.population.best.seed
        return None if seed is None else str(seed)


_NO_RESULT: Mapping[str, None] = {"data-result": None, "data-seed": None}
"""What the shown picture says of itself when it is a finished one: its stored result, and its own seed."""


def _to_keep(pictures: Mapping[str, Any]) -> dict[str, str]:
    """The link to a finished picture, under its own name."""
    return {name: pictures[name] for name in ("file", "src") if name in pictures} | {"download": ""}


def encode_preview(pictures: np.ndarray) -> str:
    """Encode a small JPEG as a data URL: of a picture (H, W, 3) or of a batch side by side, uint8."""
    encoded = base64.b64encode(encode_jpeg(build_contact_sheet(pictures if pictures.ndim == 4 else pictures[None])))
    return "data:image/jpeg;base64," + encoded.decode("ascii")


def _build_caption(view: View, step: int) -> str:
    rows = view.cells[0].rows
    total = view.cells[0].num_steps or len(rows)
    return markup.noise_curve(rows, step, total) + markup.figures(presentation.step_figures(view, step))

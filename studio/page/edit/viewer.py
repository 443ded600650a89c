"""The right half of the Edit tab: the picture dissolving and coming back, before and after, and the figures.

HTML of our own that live.py's stream changes in place, as in stage.py.
"""

from __future__ import annotations

import gradio as gr
import numpy as np

from pipelines.workflows.edit.request import canvas_of
from studio.jobs.job import Cell, Job, View
from studio.media.live_image import picture_url, png_url
from studio.results.store import Store
from studio.ui import markup, presentation
from studio.ui.live_routes import Parts
from studio.ui.results_route import address_of
from studio.ui.viewer import BLANK, preview_url

__all__ = ["EditRenderer", "build_edit_viewer", "edit_figures"]

EMPTY = (
    "<div class='sw-empty-inner'><p class='sw-empty-title'>Watch the picture dissolve and come back</p>"
    "<p>Choose an example or your own picture, say what it shows and what it should show, and press Edit.</p></div>"
)
TILES = {"inversion": "Dissolving", "reconstruction": "Reconstruction", "edit": "Edit"}


def build_edit_viewer(tab: str, prefix: str) -> None:
    """The viewer in the present layout context.

    Args:
        tab: key of the tab whose jobs it shows.
        prefix: begins every id, and is the id of the tab's outermost column.
    """
    tiles = "".join(
        f'<figure class="sw-small" id="{prefix}-tile-{name}"><figcaption>{label}</figcaption>'
        f'<img id="{prefix}-tile-{name}-image" src="{BLANK}" alt="{label}"></figure>'
        for name, label in TILES.items()
    )
    gr.HTML(
        f"""<div class="sw-show">
<div class="sw-frame">
  <div class="sw-empty" id="{prefix}-empty">{EMPTY}</div>
  <div class="sw-hero" id="{prefix}-picture" hidden><img id="{prefix}-hero" src="{BLANK}" alt="The picture at this step"></div>
  <div class="sw-lens sw-slider" data-two id="{prefix}-slider" hidden>
    <img id="{prefix}-before" src="{BLANK}" alt="Before"><img id="{prefix}-after" src="{BLANK}" alt="After">
    <input type="range" min="0" max="100" step="0.5" value="50" data-lens aria-label="How much of the source shows">
  </div>
  <div class="sw-tools" id="{prefix}-tools" hidden>
    <a id="{prefix}-download" class="sw-tool" href="#" download title="Download">{markup.ICON_DOWNLOAD}<span
      class="sw-away">Download</span></a>
    <button type="button" class="sw-tool" data-fullscreen title="Full screen">{markup.ICON_FULLSCREEN}<span
      class="sw-away">Full screen</span></button>
  </div>
</div>
<div id="{prefix}-progress"></div>
<div class="sw-path" id="{prefix}-path" hidden>{tiles}</div>
<div id="{prefix}-figures"></div></div>""",
        js_on_load=f"window.stepwise.mounted({tab!r}, {prefix!r})",
    )


class EditRenderer:
    """From an edit's views to what the viewer shows.

    Args:
        store: of the results.
        prefix: of the viewer's ids.
        job: of the task "edit".
    """

    def __init__(self, store: Store, prefix: str, job: Job):
        self._store, self._prefix, self._job = store, prefix, job

    def __call__(self, view: View) -> Parts:
        """Parts that show a view; the last picture stays until the first step of the next edit."""
        done, total = sum(len(cell.rows) for cell in view.cells), sum(cell.num_steps for cell in view.cells)
        progress = markup.progress(view.status, presentation.progress(view), done, total)
        parts: Parts = {
            "progress": {"html": progress},
            "figures": {"html": ""},
            "path": {"hidden": None if len(view.cells) == len(TILES) else ""},
            **_tiles(view.cells),
        }
        if any(cell.frames for cell in view.cells):
            parts |= _shown("picture") | {"hero": {"src": _hero(view.cells)}}
        if (
            view.status.final and view.cells and view.cells[-1].images is not None
        ):  # a failed one, too: the disk was full
            parts |= _shown("slider") | self._finished(view)
        elif view.status.final and view.cells and view.cells[-1].results:  # an old job's pictures are in the store only
            made = self._download(view)
            parts |= _shown("picture") | {"hero": made, "download": made, "tools": {"hidden": None}}
            parts["figures"] = {"html": edit_figures(view)}
        return {f"{self._prefix}-{name}": part for name, part in parts.items()}

    def _finished(self, view: View) -> Parts:
        before, after = _pair(view, self._job)
        return {
            "before": {"src": picture_url(before)},
            "after": {"src": picture_url(after)},
            "figures": {"html": edit_figures(view)},
            "download": self._download(view),
            "tools": {"hidden": None},
        }

    def _download(self, view: View) -> dict[str, str]:
        """The stored file or, where it could not be stored or was deleted, the picture itself."""
        cell = view.cells[-1]
        if cell.results and (stored := address_of(self._store, cell.results[0])):
            return {"file": stored}
        return {"src": BLANK if cell.images is None else png_url(cell.images[0])}


def _shown(one: str) -> Parts:
    """One of what lies in the frame, the others hidden."""
    return {name: {"hidden": None if name == one else ""} for name in ("empty", "picture", "slider", "tools")}


def _tiles(cells: tuple[Cell, ...]) -> Parts:
    parts: Parts = {}
    if len(cells) != len(TILES):
        return parts
    for cell, name in zip(cells, TILES, strict=True):
        if cell.images is not None:
            parts[f"tile-{name}-image"] = {"src": preview_url(cell.images[0])}
        elif cell.frames:
            frame = cell.frames[-1]
            pixels = (frame.denoised if name == "reconstruction" else frame.noisy)[0]
            parts[f"tile-{name}-image"] = {"src": preview_url(pixels)}
        else:
            parts[f"tile-{name}-image"] = {"src": BLANK}
    return parts


def _hero(cells: tuple[Cell, ...]) -> str:
    """On the way up the latents dissolving, on the way down the estimate of the edit."""
    frame = cells[-1].frames[-1].denoised if cells[-1].frames else cells[0].frames[-1].noisy
    return preview_url(frame[0])


def _pair(view: View, job: Job) -> tuple[np.ndarray, np.ndarray]:
    """The source as the model took it, and the edit."""
    after = view.cells[-1].images[0]
    left, top, right, bottom = job.request.build_edit().margins
    before = canvas_of(job.request, (after.shape[1] - left - right, after.shape[0] - top - bottom)).pixels
    return before, after


def edit_figures(view: View) -> str:
    """The figures of a finished edit, and what was done to the picture, as HTML."""
    edit, pairs = view.cells[-1].figures, []
    if len(view.cells) == 3:
        reconstruction = view.cells[1].figures
        pairs += [
            ("Reconstruction PSNR", _decibels(reconstruction.get("psnr"))),
            ("SSIM", presentation.number(reconstruction.get("ssim"))),
            (
                "LPIPS",
                presentation.number(reconstruction["lpips"]) if "lpips" in reconstruction else "weights not here",
            ),
            ("VAE alone", _decibels(reconstruction.get("autoencoder_psnr"))),
        ]
    if "background_psnr" in edit:
        pasted = edit.get("background_exact")
        pairs.append(("Outside the mask", "identical, pasted back" if pasted else _decibels(edit["background_psnr"])))
    pairs += [("Change to source", _decibels(edit.get("source_psnr"))), ("NFE", str(edit.get("evaluations", "–")))]
    if "prompt_probability" in edit:
        pairs.append(("Shows the prompt", f"{100 * edit['prompt_probability']:.0f} %"))
    if view.outcome.get("sees"):
        pairs.append(("Classifier sees", view.outcome["sees"]))
    notes = " ".join(dict.fromkeys(cell.note for cell in view.cells if cell.note))
    return markup.figures(pairs) + (f"<p class='sw-hint'>{markup.escape(notes)}</p>" if notes else "")


def _decibels(value: float | None) -> str:
    return "identical" if value is None else f"{value:.1f} dB"

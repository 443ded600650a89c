"""The right half of the Edit tab: the picture dissolving and coming back, before and after, and the figures.

HTML of our own that live.py's stream changes in place, as in studio/ui/viewer.py.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from pipelines.core.errors import ModelError
from pipelines.workflows.edit.canvas import canvas_of
from studio.jobs.job import Cell, Job, View
from studio.media.live_image import encode_picture_url, encode_png_url
from studio.results.store import Store
from studio.ui import markup, presentation
from studio.ui.before_after import build_frame, show_only
from studio.ui.example_chips import ShownExample, finished_example
from studio.ui.live_routes import Parts
from studio.ui.results_route import find_address
from studio.ui.viewer import BLANK, encode_preview

__all__ = ["EditRenderer", "build_edit_viewer", "edit_figures"]

_TITLE = "Watch the picture turn into noise and back"
_TEXT = "Choose an example or your own picture, say what it shows and what it should show, and press Edit."
TILES = {"inversion": "Inversion", "reconstruction": "Reconstruction", "edit": "Edit"}


def build_edit_viewer(tab: str, prefix: str, example: ShownExample) -> None:
    """Build the viewer in the present layout context.

    Args:
        tab: key of the tab whose jobs it shows.
        prefix: begins every id, and is the id of the tab's outermost column.
        example: shown before the first edit.
    """
    empty = finished_example(prefix, example, f"{example.label}: the source and the edit side by side", _TITLE, _TEXT)
    tiles = "".join(
        f'<figure class="sw-small" id="{prefix}-tile-{name}"><figcaption>{label}</figcaption>'
        f'<img id="{prefix}-tile-{name}-image" src="{BLANK}" alt="{label}"></figure>'
        for name, label in TILES.items()
    )
    gr.HTML(
        f"""<div class="sw-show">
{build_frame(prefix, empty)}
<div id="{prefix}-progress"></div>
<div class="sw-path" id="{prefix}-path" hidden>{tiles}</div>
<div id="{prefix}-figures"></div></div>""",
        js_on_load=f"window.stepwise.mounted({tab!r}, {prefix!r})",
    )


class EditRenderer:
    """Turns an edit's views into what the viewer shows.

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
        progress = markup.progress(view.status, presentation.list_progress_parts(view), done, total)
        parts: Parts = {
            "progress": {"html": progress},
            "figures": {"html": ""},
            "path": {"hidden": None if len(view.cells) == len(TILES) else ""},
            **_build_tiles(view.cells),
            "after": {"data-result": None},
        }
        if any(cell.frames for cell in view.cells):
            parts |= show_only("picture") | {"hero": {"src": encode_preview(_reached(view.cells))}}
        if (
            view.status.final and view.cells and view.cells[-1].images is not None
        ):  # a failed one, too: the disk was full
            parts |= show_only("slider") | self._build_finished(view)
        elif view.status.final and view.cells and view.cells[-1].results:  # an old job's pictures are in the store only
            download = self._download(view)
            hero: dict[str, Any] = {name: download[name] for name in ("file", "src") if name in download}
            parts |= show_only("picture")
            parts |= {"hero": hero, "download": download, "tools": {"hidden": None}}
            parts["figures"] = {"html": edit_figures(view)}
        elif view.status.final and any(cell.frames for cell in view.cells):  # stopped: what was reached
            reached = {"src": encode_png_url(_reached(view.cells)), "download": f"{self._job.id}-stopped.png"}
            parts |= {"download": reached, "tools": {"hidden": None}}
        return {f"{self._prefix}-{name}": part for name, part in parts.items()}

    def _build_finished(self, view: View) -> Parts:
        before, after = _find_pair(view, self._job)
        return {
            "before": {"src": encode_picture_url(before)},
            "after": {"src": encode_picture_url(after), "data-result": self._find_result(view)},
            "figures": {"html": edit_figures(view)},
            "download": self._download(view),
            "tools": {"hidden": None},
        }

    def _find_result(self, view: View) -> str | None:
        """The key of the stored picture; None where it was not stored."""
        results = view.cells[-1].results
        return results[0] if results and find_address(self._store, results[0]) else None

    def _download(self, view: View) -> dict[str, str]:
        """The stored file or, where it could not be stored or was deleted, the picture itself."""
        cell = view.cells[-1]
        if cell.results and (address := find_address(self._store, cell.results[0])):
            return {"file": address, "download": ""}
        return {"src": BLANK if cell.images is None else encode_png_url(cell.images[0]), "download": ""}


def _build_tiles(cells: tuple[Cell, ...]) -> Parts:
    parts: Parts = {}
    if len(cells) != len(TILES):
        return parts
    for cell, name in zip(cells, TILES, strict=True):
        if cell.images is not None:
            parts[f"tile-{name}-image"] = {"src": encode_preview(cell.images[0])}
        elif cell.frames:
            frame = cell.frames[-1]
            pixels = (cell.preview if name == "reconstruction" else frame.noisy)[0]
            parts[f"tile-{name}-image"] = {"src": encode_preview(pixels)}
        else:
            parts[f"tile-{name}-image"] = {"src": BLANK}
    return parts


def _reached(cells: tuple[Cell, ...]) -> np.ndarray:
    """The last picture (h, w, 3): on the way up the latents dissolving, on the way down the estimate of the edit."""
    return (cells[-1].preview if cells[-1].frames else cells[0].frames[-1].noisy)[0]


def _find_pair(view: View, job: Job) -> tuple[np.ndarray, np.ndarray]:
    """The source as the model took it, and the edit."""
    images = view.cells[-1].images
    if images is None:
        raise ModelError("The edit has no finished picture to compare.")
    after = images[0]
    left, top, right, bottom = job.request.build_edit().margins
    size = (after.shape[1] - left - right, after.shape[0] - top - bottom)
    before = canvas_of(job.request, size).source
    return before, after


def edit_figures(view: View) -> str:
    """Write the figures of a finished edit, and what was done to the picture, as HTML."""
    edit, pairs = view.cells[-1].figures, []
    if len(view.cells) == 3:
        reconstruction = view.cells[1].figures
        pairs += [
            ("Reconstruction PSNR", _format_decibels(reconstruction.get("psnr"))),
            ("SSIM", presentation.format_number(reconstruction.get("ssim"))),
            (
                "LPIPS",
                presentation.format_number(reconstruction["lpips"]) if "lpips" in reconstruction else "weights missing",
            ),
            ("VAE alone", _format_decibels(reconstruction.get("autoencoder_psnr"))),
        ]
    if "background_psnr" in edit:
        pasted = edit.get("background_exact")
        pairs.append(
            ("Outside the mask", "identical, pasted back" if pasted else _format_decibels(edit["background_psnr"]))
        )
    pairs += [
        ("Change to source", _format_decibels(edit.get("source_psnr"))),
        (
            presentation.EVALUATIONS,
            "–" if (evaluations := edit.get("evaluations")) is None else presentation.format_evaluations(evaluations),
        ),
    ]
    if (probability := edit.get("prompt_probability")) is not None:
        pairs.append(("Shows the prompt", f"{100 * probability:.0f} %"))
    if view.outcome.get("sees"):
        pairs.append(("Classifier sees", view.outcome["sees"]))
    notes = " ".join(dict.fromkeys(cell.note for cell in view.cells if cell.note))
    return markup.figures(pairs) + (f"<p class='sw-hint'>{markup.prose(notes)}</p>" if notes else "")


def _format_decibels(value: float | None) -> str:
    return "identical" if value is None else f"{value:.1f} dB"

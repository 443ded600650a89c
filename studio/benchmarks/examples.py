"""Draws what the page's examples show before they are clicked: `python -m studio.benchmarks.examples`."""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pipelines.workflows.quantize import DEFAULTS
from studio.backend import Studio, StudioSettings
from studio.jobs.job import Job, JobStatus
from studio.media.clips import decode_clip
from studio.media.live_image import build_contact_sheet
from studio.page.compare import grid
from studio.page.compare.axes import AxesForm, build_first_axes
from studio.page.compare.cells import CellsEditor, build_preset_cells
from studio.page.compare.setup import DEFAULT_STEPS, GRID, NFE, PRESETS, Preset
from studio.page.edit import examples as edit_tab
from studio.page.edit.examples import EditExample
from studio.page.live.board import EXAMPLES as LIVE_EXAMPLES
from studio.page.live.board import LiveExample
from studio.page.live.tab import FIRST
from studio.page.quantize import markup as quantize_markup
from studio.page.quantize.tab import STEPS
from studio.page.text_to_image import examples as text_to_image
from studio.page.text_to_image.examples import Example
from studio.page.video import examples as video
from studio.page.video.examples import VideoExample

__all__ = ["animate", "compare", "compare_preset", "draw", "edit", "live", "main", "quantize", "run_example"]

_BESIDE = {"model": "emoji", "prompt": text_to_image.EXAMPLES[0].values["prompt"], "seed": 0}
"""With what the tabs Compare and Quantize begin."""

_FRAMES = 12
"""Equal frames, after which live mode's picture rests."""

SIDE = 192
"""Pixels of the longer side that a stored example has at most."""

CHIP = 88
"""The same of one that only its button shows."""


def draw(studio: Studio, example: Example) -> np.ndarray:
    """Return what an example of the tab "Text to image" draws: (H, W, 3) uint8, of a batch the squarest sheet.

    Args:
        studio: makes the pictures.
        example: its settings stand above its model's own.
    """
    return build_contact_sheet(
        _pictures(studio, "text_to_image", _request(studio, example.list_values(studio.given.add_file)))
    )


def edit(studio: Studio, example: EditExample) -> np.ndarray:
    """Draw an edit's source and its result side by side: (H, 2 W, 3) uint8, the source as wide as the result."""
    values = {
        "edit": example.edit,
        "inversion": example.inversion,
        "source_prompt": example.record["source_caption"],
        "picture": example.picture,
        "mask": example.mask,
        "base": _request(studio, example.form),
    }
    after = _pictures(studio, "edit", values)[0]
    before = example.picture.resize((after.shape[0], after.shape[0]), Image.Resampling.LANCZOS)
    return np.concatenate([np.asarray(before), after], axis=1)


def animate(studio: Studio, example: VideoExample) -> np.ndarray:
    """Draw nine frames of a walk, from the first to the last, as one sheet: (3 H, 3 W, 3) uint8."""
    draft = example.draft
    values = {**{name: value for name, value in draft.items() if name != "form"}, "format": "webp"}
    job = _finished(studio.submit("animate", {**values, "base": _request(studio, draft["form"])}))
    frames, _ = decode_clip(studio.store.get(job.view().cells[0].results[0]).path, draft["fps"], draft["frames"])
    return build_contact_sheet(frames[np.linspace(0, len(frames) - 1, 9).round().astype(int)])


def compare(studio: Studio) -> np.ndarray:
    """Draw the cells with which the tab Compare begins: (2 H, 3 W, 3) uint8."""
    return compare_preset(studio, Preset("default", "", NFE))


def compare_preset(studio: Studio, preset: Preset) -> np.ndarray:
    """Draw the cells of a ready comparison, in as square a sheet as there is."""
    if preset.rows == GRID:
        differences = AxesForm.values(build_first_axes())
    else:
        rows = build_preset_cells(preset.rows, studio.traits(_BESIDE["model"]))
        differences = {"cells": CellsEditor.list_changes(rows, preset.equal == NFE)}
    base = _request(studio, {**_BESIDE, "num_inference_steps": DEFAULT_STEPS})
    values = {"base": base, **differences, "equal": preset.equal, "reference": False}
    view = _finished(studio.submit("compare", values)).view()
    return build_contact_sheet(np.concatenate([cell.images for cell in view.cells]))


def live(studio: Studio, example: LiveExample) -> np.ndarray:
    """Draw what live mode makes of an example's shapes when the drawing rests."""
    job = studio.submit("live", {**FIRST, "base": {**FIRST["base"], "prompt": example.prompt}})
    frame = io.BytesIO()
    _paint(example.shapes).save(frame, "PNG")
    for _ in range(_FRAMES):
        number = job.request.inbox.put_frame(frame.getvalue())
        while job.request.inbox.holds(number) and not job.view().status.final:
            time.sleep(0.02)
    images = _drawn(job)
    job.cancel()
    return images[0]


def _paint(shapes: str, side: int = 512) -> Image.Image:
    """Paint shapes as assets/js/board.js does."""
    picture = Image.new("RGB", (side, side))
    ink = ImageDraw.Draw(picture)
    for words in shapes.split(";"):
        kind, *numbers, color = words.split()
        at = [float(number) * side for number in numbers]
        if kind == "ground":
            ink.rectangle((0, 0, side, side), color)
        elif kind == "disc":
            ink.circle((at[0], at[1]), at[2], color)
        elif kind == "line":
            ink.line(at[:4], color, round(at[4]))
            for end in (at[:2], at[2:4]):  # a line's ends are round
                ink.circle(end, at[4] / 2, color)
        else:
            ink.polygon(at, color)
    return picture


def quantize(studio: Studio) -> np.ndarray:
    """Draw the model and its copies as the tab Quantize begins: (H, (1 + copies) W, 3) uint8, at most in two rows."""
    base = _request(studio, {**_BESIDE, "num_inference_steps": STEPS})
    values = {"base": base, "variants": list(DEFAULTS), "measure": False}
    view = _finished(studio.submit("quantize", values)).view()
    return build_contact_sheet(np.concatenate([cell.images for cell in view.cells]))


def run_example(studio: Studio, values: Mapping[str, object]) -> Job:
    """Draw an example of the tab "Text to image", and return its finished job with all its steps."""
    return _finished(studio.submit("text_to_image", _request(studio, values)))


def _request(studio: Studio, form: Mapping[str, Any]) -> dict[str, Any]:
    """A form's values as fields of a Request, above the model's own."""
    plain = {name: value for name, value in form.items() if name not in ("style", "seed_mode")}
    return {**studio.catalog[plain["model"]].defaults, **plain}


def _pictures(studio: Studio, task: str, values: Mapping[str, object]) -> np.ndarray:
    return _drawn(_finished(studio.submit(task, values)))


def _drawn(job: Job) -> np.ndarray:
    """The pictures of a job's last cell, (B, H, W, 3) uint8."""
    images = job.view().cells[-1].images
    if images is None:
        raise SystemExit(f"{job.task}: it drew nothing.")
    return images


def _finished(job: Job) -> Job:
    view = job.view()
    while not view.status.final:
        view = job.wait(view.version, 60)
    if view.status is not JobStatus.DONE:
        raise SystemExit(f"{job.task}: {view.message}")
    return job


def _write(pixels: np.ndarray, path: Path, side: int = SIDE) -> None:
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "WEBP", quality=86, method=6)
    print(path.name, f"{path.stat().st_size} bytes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the examples of the keys that are named, or all."""
    parser = argparse.ArgumentParser(description="Draw the pictures that the tabs show of their examples.")
    parser.add_argument("keys", nargs="*", help="Of examples, as their files are named; all where none is given.")
    keys = parser.parse_args(arguments).keys
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(StudioSettings(outputs=Path(folder), models=Path(folder) / "models", device="cpu"))
        try:
            tabs: tuple[tuple[Callable[[Studio, Any], np.ndarray], Sequence[Any]], ...] = (
                (draw, text_to_image.EXAMPLES),
                (edit, edit_tab.EXAMPLES),
                (animate, video.EXAMPLES),
                (compare_preset, PRESETS),
                (live, LIVE_EXAMPLES),
            )
            wanted = [(make, example) for make, examples in tabs for example in examples]
            for make, example in wanted:
                if not keys or example.result.stem in keys:
                    _write(make(studio, example), example.result, CHIP if make is compare_preset else SIDE)
            for make_grid, result in ((compare, grid.EXAMPLE), (quantize, quantize_markup.EXAMPLE)):
                if not keys or result.stem in keys:
                    _write(make_grid(studio), result)
        finally:
            studio.close()


if __name__ == "__main__":
    main()

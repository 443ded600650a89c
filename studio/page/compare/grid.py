"""A comparison as HTML: one tile a cell, in a layout that stays still while the pictures in it change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.workflows.compare.axes import Axis
from pipelines.workflows.compare.labels import axis_value
from pipelines.workflows.compare.request import ComparisonRequest
from studio.jobs.job import Cell, Job, JobStatus, View
from studio.media.live_image import encode_picture_url, encode_png_url
from studio.ui.example_chips import RESULTS
from studio.ui.live_routes import Parts
from studio.ui.markup import escape, prose, term
from studio.ui.presentation import EVALUATIONS, format_count, format_duration, format_evaluations

__all__ = ["EXAMPLE", "WORDS", "ComparisonGrid", "build_table"]

EXAMPLE = RESULTS / "compare.webp"
"""The cells with which the tab begins, as they come out: written by `python -m studio.benchmarks.examples`."""

WORDS = (
    "Six samplers' pictures from one noise",
    "One noise, several ways to remove it",
    "Every cell starts from the same initial noise and all stream at once. When they are done, a reference run of many "
    "steps from that noise shows how close each of them came.",
)
EMPTY = f'<div class="sw-cells-empty"><p class="sw-empty-title">{WORDS[1]}</p><p>{WORDS[2]}</p></div>'


class ComparisonGrid:
    """Draws one job with cells; keeps each cell's encoded picture, so that only what changed is encoded anew.

    Args:
        request: says how many cells there are, their sizes and how they lie.
        address: result id to where its file is fetched, or None where it is gone.
        describe: what else is said of a finished cell, as HTML.
    """

    def __init__(
        self,
        request: ComparisonRequest,
        address: Callable[[str], str | None],
        describe: Callable[[Cell], str] = lambda cell: "",
    ):
        self._request, self._address, self._describe = request, address, describe
        self._encoded: dict[int, tuple[Any, str]] = {}

    def build_parts(self, view: View, prefix: str) -> Parts:
        """Build what the grid shows at this moment: its layout, which stays, and each tile.

        Args:
            view: of the job.
            prefix: of the ids: the grid is "{prefix}-grid", its tiles "{prefix}-tile-0" and so on.
        """
        if not view.cells:
            return {f"{prefix}-grid": {"html": EMPTY}}
        best = _find_best(view.cells[: len(self._request.cells)])
        places = range(len(view.cells))
        tiles = {f"{prefix}-tile-{index}": self._build_tile(index, view, best) for index in places}
        return {f"{prefix}-grid": {"html": self._build_layout(prefix, len(view.cells))}, **tiles}

    def _build_layout(self, prefix: str, total: int) -> str:
        request = self._request
        count = len(request.cells)
        tiles = [
            f'<figure class="sw-cell" id="{prefix}-tile-{index}"{" data-reference" if index >= count else ""}></figure>'
            for index in range(total)
        ]
        if request.x is None and total <= count + 1:  # a single reference stands among the cells
            return f'<div class="sw-cells" data-count="{count}">{"".join(tiles)}</div>'
        cells = "".join(tiles[:count])
        main = (
            _build_axes(request.x, request.y, tiles[:count])
            if request.x
            else f'<div class="sw-cells" data-count="{count}">{cells}</div>'
        )
        references = "".join(tiles[count:])
        return main + (f'<div class="sw-cells sw-references" data-count="1">{references}</div>' if references else "")

    def _build_tile(self, index: int, view: View, best: dict[str, float]) -> dict[str, str]:
        cell, reference = view.cells[index], index >= len(self._request.cells)
        state = _get_state(cell, view.status)
        label = f'<p class="sw-cell-label">{escape(cell.label)}</p>' if self._request.x is None or reference else ""
        share = 100 * len(cell.rows) / cell.num_steps if cell.num_steps else 100 if cell.images is not None else 0
        likeness = "" if reference else _format_likeness(cell, best) + self._describe(cell)
        html = (
            f"{self._build_picture(index, view, state)}{'' if reference else _format_badge(cell, best)}"
            f'<div class="sw-bar" aria-hidden="true"><i style="width:{share:.0f}%"></i></div>'
            f"<figcaption>{label}{_format_numbers(cell, state)}{likeness}{_note(cell)}</figcaption>"
        )
        return {"data-state": state, "html": html}

    def _build_picture(self, index: int, view: View, state: str) -> str:
        cell = view.cells[index]
        url, shape = self._encode_url(index, cell, view), self._compute_aspect(index, cell)
        address = self._address(cell.results[0]) if cell.results else None
        if not url and not address:
            return f'<div class="sw-tile" style="aspect-ratio:{shape}"></div>'
        source = (
            f'src="{url}"' if url else f'data-file="{escape(address)}"'
        )  # an old job's pictures are in the store only
        alt = f"{cell.label}, {'finished picture' if state == 'done' else f'preview at step {len(cell.rows)}'}"
        full = f' data-file="{escape(address)}"' if address else ""
        return (
            f'<button type="button" class="sw-tile" style="aspect-ratio:{shape}" data-cell="{index}" '
            f'data-label="{escape(cell.label)}"{full} title="Enlarge"><img {source} alt="{escape(alt)}"></button>'
        )

    def _encode_url(self, index: int, cell: Cell, view: View) -> str:
        stamp = "final" if cell.images is not None else len(cell.frames)
        if stamp == 0:
            return ""
        if stamp == "final" and view.status.final and not cell.results and index < len(self._request.cells):
            stamp = "whole"  # the disk was full: this is the only place to take it from
        if index not in self._encoded or self._encoded[index][0] != stamp:
            pixels = cell.images[0] if cell.images is not None else cell.preview[0]
            self._encoded[index] = (stamp, encode_png_url(pixels) if stamp == "whole" else encode_picture_url(pixels))
        return self._encoded[index][1]

    def _compute_aspect(self, index: int, cell: Cell) -> str:
        if cell.images is not None:
            height, width = cell.images.shape[1:3]
        elif cell.frames:
            height, width = cell.preview.shape[1:3]
        else:
            cells = self._request.cells
            request = cells[index].request if index < len(cells) else cells[0].request
            height, width = request.height or 1, request.width or 1
        divisor = math.gcd(height, width)
        return f"{width // divisor}/{height // divisor}"


def build_table(job: Job, view: View) -> str:
    """Build the finished cells' figures as a table, closed at first."""
    rows = view.outcome.get("rows") if view.status.final else None
    if not rows:
        return ""
    lines = "".join(_build_table_row(row) for row in rows)
    names = ("Cell", "Steps", EVALUATIONS, "Seconds", "PSNR, dB", "SSIM")
    heads = "".join(f'<th scope="col">{term(name)}</th>' for name in names)
    return (
        '<details class="sw-table"><summary>All figures</summary>'
        '<div class="sw-scroll" tabindex="0" role="region" aria-label="Figures">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div></details>"
    )


def _build_table_row(row: dict[str, Any]) -> str:
    psnr = "equal" if row["identical"] else "–" if row["psnr"] is None else f"{row['psnr']:.2f}"
    ssim = "–" if row["ssim"] is None else f"{row['ssim']:.4f}"
    numbers = (str(row["steps"]), format_evaluations(row["evaluations"]), f"{row['seconds']:.2f}", psnr, ssim)
    return f'<tr><th scope="row">{escape(row["label"])}</th>{"".join(f"<td>{number}</td>" for number in numbers)}</tr>'


def _build_axes(x: Axis, y: Axis | None, tiles: Sequence[str]) -> str:
    """Columns along x, rows down y, with their headers; wide grids scroll sideways in their own frame."""
    columns = len(x.values)
    heads = "".join(f'<div class="sw-axis">{_format_axis(x, value)}</div>' for value in x.values)
    sides = [f'<div class="sw-axis sw-side">{_format_axis(y, value)}</div>' for value in y.values] if y else [""]
    rows = "".join(side + "".join(tiles[i * columns : (i + 1) * columns]) for i, side in enumerate(sides))
    corner = '<div class="sw-axis"></div>' if y else ""
    lead = "minmax(64px, max-content) " if y else ""
    return (
        f'<div class="sw-scroll" tabindex="0" role="region" aria-label="Grid of {len(tiles)} cells">'
        f'<div class="sw-cells sw-grid" style="grid-template-columns:{lead}repeat({columns}, minmax(116px, 1fr))">'
        f"{corner}{heads}{rows}</div></div>"
    )


def _format_axis(axis: Axis, value: object) -> str:
    return f"<span>{escape(axis.label)}</span> {escape(axis_value(axis.field, value))}"


def _get_state(cell: Cell, status: JobStatus) -> str:
    if cell.images is not None or cell.results:
        return "done"
    if cell.note and len(cell.rows) == cell.num_steps and (status.final or not cell.rows):
        return "failed"
    return "stopped" if status.final else "running" if cell.rows else "waiting"


def _format_numbers(cell: Cell, state: str) -> str:
    if not cell.rows:
        words = {
            "waiting": format_count(cell.num_steps, "step"),
            "stopped": "not started",
            "done": "no run needed",
        }.get(state, "")
        return f'<p class="sw-cell-numbers">{words}</p>' if words else ""
    row, done = cell.rows[-1], len(cell.rows)
    steps = format_count(done, "step") if state == "done" else f"step {done}/{cell.num_steps}"
    return (
        f'<p class="sw-cell-numbers"><span>{steps}</span>'
        f"<span>{term('NFE')} {format_evaluations(row.evaluations)}</span>"
        f"<span>{format_duration(row.seconds)}</span></p>"
    )


def _format_likeness(cell: Cell, best: dict[str, float]) -> str:
    uncached = _format_cost_of_cache(cell)
    psnr = cell.figures.get("psnr")
    if psnr is None:
        return uncached
    if math.isinf(psnr):
        return f'<p class="sw-likeness"><b>equal to the reference</b></p>{uncached}'
    texts = {"psnr": f"PSNR {psnr:.1f} dB"}
    if cell.figures.get("ssim") is not None:
        texts["ssim"] = f"SSIM {cell.figures['ssim']:.3f}"
    tags = {name: "b" if cell.figures[name] == best.get(name) else "span" for name in texts}
    return (
        f'<p class="sw-likeness">{"".join(f"<{tags[name]}>{text}</{tags[name]}>" for name, text in texts.items())}</p>'
        f"{uncached}"
    )


def _format_cost_of_cache(cell: Cell) -> str:
    """How close a cell with a cache came to the cell that is the same without."""
    decibels = cell.figures.get("uncached_psnr")
    if decibels is None:
        return ""
    words = "equal to" if math.isinf(decibels) else f"{decibels:.1f} dB to"
    skipped = sum(row.skipped for row in cell.rows) / max(len(cell.rows), 1)
    return f'<p class="sw-likeness"><span>{words} the run without cache, {100 * skipped:.0f} % skipped</span></p>'


def _format_badge(cell: Cell, best: dict[str, float]) -> str:
    names = [name.upper() for name, value in best.items() if cell.figures.get(name) == value]
    return f'<p class="sw-badge">Best {" and ".join(names)}</p>' if names else ""


def _note(cell: Cell) -> str:
    return f'<p class="sw-cell-note">{prose(cell.note)}</p>' if cell.note else ""


def _find_best(cells: Sequence[Cell]) -> dict[str, float]:
    """The largest of each figure, where at least two cells have it."""
    best: dict[str, float] = {}
    for name in ("psnr", "ssim"):
        values = [value for cell in cells if (value := cell.figures.get(name)) is not None]
        if len(values) > 1:
            best[name] = max(values)
    return best

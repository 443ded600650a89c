"""A finished comparison to take away: one labeled picture, and a table."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pipelines.core.errors import SettingsError
from pipelines.core.types import METHODS
from studio.jobs.job import Cell, Job
from studio.results.store import Record, Store

__all__ = ["build_table", "draw_comparison", "store_picture", "store_table", "write_csv"]

_PAPER, _INK, _FAINT, _BEST = "#ffffff", "#1b1d1a", "#5a5d55", "#0f766e"
_MARGIN, _GAP = 32, 20
_LARGEST, _SMALLEST = 512, 192
"""Pixels of a picture's longer side on the sheet."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def draw_comparison(job: Job) -> Image.Image:
    """Draw the cells in their grid with their labels and figures, under a header with prompt and seed; light, RGB.

    Raises:
        SettingsError: nothing of the comparison is finished yet.
    """
    outcome = _require_outcome(job)
    cells, count = job.view().cells, len(outcome["rows"])
    pictures = [None if cell.images is None else Image.fromarray(cell.images[0]) for cell in cells]
    if not any(pictures[:count]):
        raise SettingsError("No cell of this comparison is finished. Run it first.")
    rows = list(outcome["rows"])
    if not outcome["axes"] and len(cells) == count + 1 and pictures[count]:
        rows.append(_build_reference_row(cells[count]))
    return _Sheet({**outcome, "rows": rows}, pictures[: len(rows)]).draw()


def build_table(job: Job) -> list[dict[str, Any]]:
    """Build the table, one row a cell: names to numbers and texts, in the order of the columns.

    Raises:
        SettingsError: the comparison is still running.
    """
    return [_build_columns(row) for row in _require_outcome(job)["rows"]]


def write_csv(job: Job) -> str:
    """Write the table as CSV (RFC 4180) with a header line; what a spreadsheet would take for a formula gets an
    apostrophe.

    Raises:
        SettingsError: the comparison is still running.
    """
    table = build_table(job)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(table[0])
    for row in table:
        writer.writerow([_escape_formula(value) for value in row.values()])
    return buffer.getvalue()


def store_picture(store: Store, job: Job) -> Record:
    """Keep the labeled picture among the results.

    Raises:
        StoreError: it cannot be written.
    """
    return store.save(draw_comparison(job), _build_metadata(job), kind="comparison", job=job.id, owner=job.owner)


def store_table(store: Store, job: Job) -> Record:
    """Keep the table among the results.

    Raises:
        StoreError: it cannot be written.
    """
    # The mark tells spreadsheets that the bytes are UTF-8.
    data = ("\ufeff" + write_csv(job)).encode("utf-8")
    return store.save_bytes(data, ".csv", _build_metadata(job), kind="comparison", job=job.id, owner=job.owner)


def _build_reference_row(cell: Cell) -> dict[str, Any]:
    last = cell.rows[-1] if cell.rows else None
    return {
        "label": cell.label,
        "steps": len(cell.rows),
        "evaluations": last.evaluations if last else 0,
        "seconds": last.seconds if last else 0.0,
        "psnr": None,
        "ssim": None,
        "identical": False,
        "problem": "",
    }


def _require_outcome(job: Job) -> Mapping[str, Any]:
    outcome = job.view().outcome
    if not outcome:
        raise SettingsError("This comparison has no results yet. Wait until it ends, or stop it.")
    return outcome


def _build_metadata(job: Job) -> dict[str, Any]:
    return {
        "request": job.request.base.to_json(),
        "comparison": job.request.to_json(),
        "outcome": dict(job.view().outcome),
    }


def _build_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    settings = row["settings"]
    methods = {name: _format_method(settings[name]) for name in METHODS}
    loras = "; ".join(f"{lora['name']} {lora['weight']:g}" for lora in settings["loras"])
    psnr = "inf" if row["identical"] else "" if row["psnr"] is None else round(row["psnr"], 3)
    return {
        "cell": row["cell"],
        "label": row["label"],
        "steps": row["steps"],
        "nfe": round(row["evaluations"], 3),
        "seconds": round(row["seconds"], 4),
        "psnr_db": psnr,
        "ssim": "" if row["ssim"] is None else round(row["ssim"], 5),
        "uncached_psnr_db": "" if row["uncached_psnr"] is None else round(row["uncached_psnr"], 3),
        "model": settings["model"],
        "prompt": settings["prompt"],
        "negative_prompt": settings["negative_prompt"],
        **methods,
        "seed": settings["seed"],
        "width": settings["width"],
        "height": settings["height"],
        "loras": loras,
        "result": row["result"] or "",
        "problem": row["problem"],
    }


def _format_method(choice: Mapping[str, Any]) -> str:
    return " ".join([choice["key"], *(f"{name}={value}" for name, value in choice.items() if name != "key")])


def _escape_formula(value: object) -> Any:
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value


@dataclasses.dataclass
class _Sheet:
    """The labeled picture in the making; every measure is in pixels of the sheet."""

    outcome: Mapping[str, Any]
    pictures: Sequence[Image.Image | None]

    def __post_init__(self) -> None:
        axes = self.outcome["axes"]
        self.columns = len(axes[0]["values"]) if axes else min(4, len(self.pictures))
        longest = max(max(picture.size) for picture in self.pictures if picture)
        # Whole multiples keep small pictures' pixels square.
        self.scale = max(1, _SMALLEST // longest) if longest < _SMALLEST else min(1.0, _LARGEST / longest)
        sizes = [self._scale_size(picture) for picture in self.pictures if picture]
        self.cell = max(max(width for width, _ in sizes), _SMALLEST), max(height for _, height in sizes)
        self.title, self.text, self.small = (ImageFont.load_default(size) for size in (24, 15, 13))
        self.best = {
            name: max((row[name] for row in self.outcome["rows"] if row[name] is not None), default=None)
            for name in ("psnr", "ssim")
        }

    def draw(self) -> Image.Image:
        width, height = self.cell
        left_margin = _MARGIN + (self._measure_row_header() if len(self.outcome["axes"]) > 1 else 0)
        captions = [self._list_caption_lines(row) for row in self.outcome["rows"]]
        below = max(len(lines) for lines in captions) * 19 + 8
        header = self._list_header_lines(self.columns * (width + _GAP) - _GAP + left_margin - _MARGIN)
        top = (
            _MARGIN + 32 * header[0].count("\n") + 32 + 22 * len(header[1:]) + 16 + (26 if self.outcome["axes"] else 0)
        )
        rows = -(-len(self.pictures) // self.columns)
        sheet = Image.new(
            "RGB",
            (left_margin + self.columns * (width + _GAP) - _GAP + _MARGIN, top + rows * (height + below + _GAP)),
            _PAPER,
        )
        self.pen = ImageDraw.Draw(sheet)
        self._draw_header(header)
        self._draw_axes(left_margin, top, below)
        for index, (picture, lines) in enumerate(zip(self.pictures, captions, strict=True)):
            x, y = (
                left_margin + index % self.columns * (width + _GAP),
                top + index // self.columns * (height + below + _GAP),
            )
            if picture:
                size = self._scale_size(picture)
                sheet.paste(
                    picture.resize(size, Image.Resampling.NEAREST if self.scale > 1 else Image.Resampling.LANCZOS),
                    (x, y),
                )
            else:
                self.pen.rectangle((x, y, x + width - 1, y + height - 1), outline="#d2d3cc")
                self.pen.text((x + 12, y + 12), "not finished", _FAINT, self.small)
            for place, (line, color) in enumerate(lines):
                self.pen.text((x, y + height + 6 + place * 19), line, color, self.text if color == _INK else self.small)
        return sheet

    def _scale_size(self, picture: Image.Image) -> tuple[int, int]:
        width, height = (max(1, round(side * self.scale)) for side in picture.size)
        return width, height

    def _list_header_lines(self, width: int) -> list[str]:
        """The prompt, wrapped, and the line under it."""
        facts = [
            f"seed {self.outcome['seed']}",
            *self.outcome["models"],
            "equal evaluations" if self.outcome["equal"] == "nfe" else "one initial noise",
        ]
        if self.outcome["reference_steps"]:
            facts.append(f"PSNR and SSIM to {self.outcome['reference_steps']} steps")
        return [
            "\n".join(self._wrap(self.outcome["prompt"], self.title, width, 3)),
            *self._wrap(" · ".join(facts), self.text, width, 3),
        ]

    def _draw_header(self, header: Sequence[str]) -> None:
        self.pen.multiline_text((_MARGIN, _MARGIN - 8), header[0], _INK, self.title, spacing=8)
        top = _MARGIN + 32 * header[0].count("\n") + 28
        for place, line in enumerate(header[1:]):
            self.pen.text((_MARGIN, top + 22 * place), line, _FAINT, self.text)

    def _measure_row_header(self) -> int:
        values = [f"{self.outcome['axes'][1]['label']} {value}" for value in self.outcome["axes"][1]["values"]]
        return (
            min(
                220,
                round(
                    max(self.small.getlength(word) for text in values for word in self._wrap(text, self.small, 200, 6))
                ),
            )
            + 16
        )

    def _draw_axes(self, left_margin: int, top: int, below: int) -> None:
        width, height = self.cell
        for place, axis in enumerate(self.outcome["axes"]):
            for number, value in enumerate(axis["values"]):
                label = f"{axis['label']} {value}" if number == 0 or place else value
                if place == 0:
                    line = self._wrap(label, self.text, width, 1)[0]
                    self.pen.text((left_margin + number * (width + _GAP), top - 24), line, _INK, self.text)
                else:
                    lines = "\n".join(self._wrap(label, self.small, left_margin - _MARGIN - 16, 6))
                    self.pen.multiline_text(
                        (_MARGIN, top + number * (height + below + _GAP)), lines, _INK, self.small, spacing=4
                    )

    def _list_caption_lines(self, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        width = self.cell[0]
        lines = [] if self.outcome["axes"] else [(line, _INK) for line in self._wrap(row["label"], self.text, width, 2)]
        if row["steps"]:  # a kept reference did none
            lines.append(
                (
                    f"{row['steps']} step{'s' * (row['steps'] != 1)} · NFE {row['evaluations']} · "
                    f"{row['seconds']:.2f} s",
                    _FAINT,
                )
            )
        if row["problem"]:
            return lines + [(line, _FAINT) for line in self._wrap(row["problem"], self.small, width, 3)]
        if row["identical"]:
            lines.append(("equal to the reference", _BEST))
        elif row["psnr"] is not None:
            best = row["psnr"] == self.best["psnr"]
            ssim = "" if row["ssim"] is None else f" · SSIM {row['ssim']:.3f}"
            lines.append((f"PSNR {row['psnr']:.2f} dB{ssim}", _BEST if best else _FAINT))
            if best:
                lines.append(("closest to the reference", _BEST))
        return lines

    @staticmethod
    def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int, max_lines: int) -> list[str]:
        lines = [""]
        for word in " ".join(text.split()).split(" "):
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and font.getlength(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        lines, is_cut = lines[:max_lines], len(lines) > max_lines
        for place, line in enumerate(lines):
            while line and font.getlength(line + "…") > width and font.getlength(line) > width:
                line = line[:-1]
            lines[place] = (
                line if line == lines[place] and not (is_cut and place == max_lines - 1) else line.rstrip() + "…"
            )
        return lines

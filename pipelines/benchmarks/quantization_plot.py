"""Stored bytes against PSNR, and SQNR by step, as small SVGs that are read on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipelines.benchmarks.quantization_targets import on_front
from pipelines.benchmarks.quantization_time_aware import find_pairs

__all__ = ["plot_front", "plot_steps", "plot_time_aware"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 860, 400, 62, 260, 40, 48
_OURS, _LIBRARY, _LINE = "#1f77b4", "#d62728", "#8a8a8a"
_COLORS = ("#1f77b4", "#2ca02c", "#d62728", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
_SHOWN = ("int8", "nf4", "calibrated", "onednn_w8a8", "gguf_q4_0", "quanto_int4", "sdnq_uint4", "layerwise")
Row = Mapping[str, Any]


def _begin(panels: int) -> list[str]:
    height = _HEIGHT * max(1, panels)
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="#333"{more}>{escape(words)}</text>'


class _Axes:
    """Places values in a panel, both axes linear.

    Args:
        top: of the panel.
        across, up: the least and the largest value of each axis.
    """

    def __init__(self, top: float, across: tuple[float, float], up: tuple[float, float]):
        self.top, self.across, self.up = top, across, up

    def x(self, value: float) -> float:
        low, high = self.across
        return _LEFT + (value - low) / max(high - low, 1e-9) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.up
        return self.top + _HEIGHT - _BOTTOM - (value - low) / max(high - low, 1e-9) * (_HEIGHT - _TOP - _BOTTOM)

    def draw(self, title: str, across: str, marks: Sequence[float], form: str) -> list[str]:
        """Draw lines, numbers and names."""
        low, high = self.up
        step = 5 if high - low <= 40 else 10
        left, right, bottom = self.x(self.across[0]), self.x(self.across[1]), self.y(low)
        parts = [_text(left, self.top + 20, title, ' font-weight="bold"')]
        for value in range(int(low), int(high) + 1, step):
            parts.append(
                f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{self.y(value):.1f}" y2="{self.y(value):.1f}" '
                'stroke="#e4e4e4"/>'
            )
            parts.append(_text(left - 8, self.y(value) + 4, f"{value}", ' text-anchor="end"'))
        parts += [_text(self.x(mark), bottom + 18, format(mark, form), ' text-anchor="middle"') for mark in marks]
        parts.append(_text((left + right) / 2, bottom + 38, across, ' text-anchor="middle"'))
        return parts


def _range(values: Sequence[float]) -> tuple[float, float]:
    return 5 * math.floor(min(values) / 5), 5 * math.ceil(max(values) / 5)


def plot_front(models: Mapping[str, Any]) -> str:
    """Draw a panel a model: round marks are ours, square ones libraries', and a line joins the front."""
    parts = _begin(len(models))
    for place, (key, model) in enumerate(models.items()):
        rows = [row for row in model["rows"] if not row["simulated"] and row["psnr"] is not None]
        if rows:
            parts += _draw_front(key, rows, place * _HEIGHT)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw_front(key: str, rows: Sequence[Row], top: float) -> list[str]:
    largest = math.ceil(max(row["bytes"] for row in rows) / 1e6 / 5) * 5
    axes = _Axes(top, (0.0, largest), _range([row["psnr"] for row in rows]))
    marks = list(range(0, largest + 1, 5 if largest <= 30 else 10))
    parts = axes.draw(f"{key}: PSNR in dB, up and left is better", "stored, MB", marks, "g")
    front = sorted((row for row in rows if row["label"] in on_front(rows)), key=lambda row: row["bytes"])
    line = " ".join(f"{axes.x(row['bytes'] / 1e6):.1f},{axes.y(row['psnr']):.1f}" for row in front)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_LINE}" stroke-dasharray="4 3"/>')
    for number, row in enumerate(rows, 1):
        x, y, color = axes.x(row["bytes"] / 1e6), axes.y(row["psnr"]), _LIBRARY if row["library"] else _OURS
        if row["library"]:
            parts.append(f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{color}"/>')
        else:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{color}"/>')
        parts.append(_text(x + 6, y - 5, str(number), ' font-size="10"'))
        pitch = min(16.0, (_HEIGHT - _TOP - 8) / len(rows))
        parts.append(
            f'<text x="{_WIDTH - _RIGHT + 16}" y="{top + _TOP + pitch * number:.1f}" fill="{color}" font-size="11">'
            f"{number}  {escape(row['label'])}</text>"
        )
    return parts


def plot_steps(models: Mapping[str, Any]) -> str:
    """Draw a panel a model: SQNR of the network's output by step, solid teacher-forced, dashed free-running."""
    parts = _begin(len(models))
    for place, (key, model) in enumerate(models.items()):
        chosen: dict[str, Row] = {}
        for row in model["rows"]:
            if row["forced"] and row["key"] in _SHOWN and (row["key"] != "calibrated" or "bits" not in row["label"]):
                chosen.setdefault(row["key"], row)
        if chosen:
            parts += _draw_steps(key, list(chosen.values()), place * _HEIGHT)
    return "\n".join([*parts, "</svg>"]) + "\n"


def plot_time_aware(models: Mapping[str, Any]) -> str:
    """Draw a panel a model: SQNR by step of each pair of time-blind and time-aware calibration."""
    parts = _begin(len(models))
    for place, (key, model) in enumerate(models.items()):
        chosen = [row for pair in find_pairs(model["rows"]) for row in pair if row["forced"]]
        if chosen:
            parts += _draw_steps(key, [{**row, "label": _name_pair(row)} for row in chosen], place * _HEIGHT)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _name_pair(row: Row) -> str:
    settings = row["settings"]
    ranges = "time-aware" if settings.get("activation_ranges") == "interval" else "time-blind"
    return f"inputs {settings.get('activations', 'int8')}, {ranges}"


def _draw_steps(key: str, rows: Sequence[Row], top: float) -> list[str]:
    values = [value for row in rows for name in ("forced", "free") for value in row[name]]
    count = len(rows[0]["forced"])
    axes = _Axes(top, (1, max(2, count)), _range(values))
    title = f"{key}: SQNR in dB, solid on the full run's latents, dashed each its own way"
    parts = axes.draw(title, "step", range(1, count + 1), "g")
    for number, (row, color) in enumerate(zip(rows, _COLORS, strict=False), 1):
        for name, dash in (("forced", ""), ("free", ' stroke-dasharray="5 3"')):
            line = " ".join(f"{axes.x(step):.1f},{axes.y(value):.1f}" for step, value in enumerate(row[name], 1))
            parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        y, x = top + _TOP + 20 * number, _WIDTH - _RIGHT + 16
        parts.append(
            f'<line x1="{x}" x2="{x + 20}" y1="{y - 4:.0f}" y2="{y - 4:.0f}" stroke="{color}" stroke-width="2"/>'
        )
        parts.append(_text(x + 28, y, row["label"], ' font-size="12"'))
    return parts

"""What a quantization's figures look like: errors by step, quality against size and speed, SQNR by layer and step."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from studio.ui.markup import escape

__all__ = ["build_legend", "draw_error_plot", "draw_heat_maps", "draw_scatter_plot", "find_front"]

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 36
LINE = 16
LOW, HIGH = 0.0, 60.0
"""Decibels at the ends of the heat map's colors."""

COLORS = np.array(
    [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]], np.float64
)
"""Viridis at equal distances: dark is bad, light is good, and gray prints keep the order."""

NONE = np.array([128, 128, 128], np.uint8)


def build_legend(labels: Sequence[str]) -> str:
    """Show which color is which."""
    items = "".join(f'<li><i class="qz-{place % 7}"></i>{escape(label)}</li>' for place, label in enumerate(labels))
    return f'<ul class="qz-legend">{items}</ul>'


def draw_error_plot(errors: Sequence[Mapping[str, Any]]) -> str:
    """Draw the SQNR of the estimate of the picture by step: solid teacher-forced, dashed free-running."""
    values = [value for series in errors for kind in ("forced", "free") for value in series[kind] if value is not None]
    if not values:
        return ""
    steps = len(errors[0]["forced"])
    low, high = _round_range(min(values), max(values))

    def place_point(step: int, value: float) -> str:
        return f"{_place_x(step / max(1, steps - 1)):.1f},{_place_y((value - low) / (high - low)):.1f}"

    lines = []
    for place, series in enumerate(errors):
        for kind, style in (("forced", ""), ("free", " qz-free")):
            points = " ".join(place_point(step, value) for step, value in enumerate(series[kind]) if value is not None)
            lines.append(f'<polyline class="qz-line qz-{place % 7}{style}" points="{points}"/>')
    summary = "; ".join(
        f"{one['label']}: {_format_span(one['forced'])} teacher-forced, {_format_span(one['free'])} free-running"
        for one in errors
    )
    marks = sorted({1, max(1, steps // 2), steps})
    below = "".join(_draw_tick((mark - 1) / max(1, steps - 1), str(mark)) for mark in marks)
    return _build_svg(
        f"SQNR in decibels over {steps} steps. {summary}.",
        _draw_rows(low, high) + below + "".join(lines),
        "Step",
        "SQNR, dB",
    )


def _format_span(values: Sequence[float | None]) -> str:
    finite = [value for value in values if value is not None]
    return f"from {finite[0]:.0f} to {finite[-1]:.0f} dB" if finite else "equal"


def draw_scatter_plot(rows: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]] = ()) -> str:
    """Draw the PSNR against stored bytes; the larger a mark, the longer a step. Full precision lies at the top edge.

    Args:
        rows: of this run, whose marks are labeled.
        earlier: of earlier runs, whose marks are rings that say what they are when pointed at. A line joins what none
            of all beats in both.
    """
    measured = [
        row for row in rows if row["bytes"] and (row["psnr"] is not None or row["identical"] or row["method"] is None)
    ]
    decibels = [row["psnr"] for row in measured if row["psnr"] is not None]
    if not decibels:
        return ""
    rings = [row for row in earlier if row["method"] and row["bytes"] and row["psnr"] is not None]
    decibels += [row["psnr"] for row in rings]
    low, high = _round_range(min(decibels) - 3, max(decibels) + 3)
    largest = max(row["bytes"] for row in (*measured, *rings)) * 1.08

    def place(row: Mapping[str, Any]) -> tuple[float, float]:
        return _place_x(row["bytes"] / largest), _place_y((row["psnr"] - low) / (high - low))

    marks, descriptions, variants = [], [], [row["label"] for row in rows if row["method"]]
    front = find_front([row for row in (*measured, *rings) if row["psnr"] is not None])
    if len(front) > 1:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, front))
        marks.append(f'<polyline class="qz-front" points="{points}"/>')
    for row in rings:
        x, y = place(row)
        title = _build_title(row, "earlier: ")
        marks.append(f'<circle class="qz-ring" cx="{x:.1f}" cy="{y:.1f}" r="5">{title}</circle>')
    free = 0.0  # where the next label may stand, from the top, so that none lies on another
    for row in sorted(measured, key=lambda one: math.inf if one["psnr"] is None else one["psnr"], reverse=True):
        x, exact = _place_x(row["bytes"] / largest), row["psnr"] is None
        y = TOP if exact else _place_y((row["psnr"] - low) / (high - low))
        radius = 4 + 3 * min(row["step_ratio"] or 1.0, 4.0)
        color = f"qz-{variants.index(row['label']) % 7}" if row["method"] else "qz-full"
        ratio = f", {row['step_ratio']:.2f} ×" if row["step_ratio"] else ""
        end = ' text-anchor="end"' if x > WIDTH * 0.6 else ""
        shift = -radius - 4 if end else radius + 4
        line = max(y + 4, TOP + 8, free)
        free = line + LINE
        marks.append(
            f'<circle class="qz-mark {color}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{_build_title(row)}</circle>'
            f'<text x="{x + shift:.1f}" y="{line:.1f}"{end}>{escape(row["label"])}{ratio}</text>'
        )
        descriptions.append(
            f"{row['label']}: {row['bytes'] / 1e6:.1f} MB, {'exact' if exact else _format_decibels(row['psnr'])}{ratio}"
        )
    unit, name = (1e9, "GB") if largest > 2e9 else (1e6, "MB")
    below = "".join(_draw_tick(share / largest, f"{share / unit:g}") for share in _list_round_marks(largest))
    return _build_svg(
        "Quality against size. " + "; ".join(descriptions) + ".",
        _draw_rows(low, high) + below + "".join(marks),
        f"Stored weights, {name}",
        "PSNR, dB",
    )


def find_front(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Find the rows that no other beats in both bytes and PSNR, the smallest first."""
    front: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda one: (one["bytes"], -one["psnr"])):
        if not front or row["psnr"] > front[-1]["psnr"]:
            front.append(row)
    return front


def _build_title(row: Mapping[str, Any], before: str = "") -> str:
    """What a mark says when it is pointed at."""
    quality = "full precision" if row["psnr"] is None else _format_decibels(row["psnr"])
    ratio = f", {row['step_ratio']:.2f} × the time" if row["step_ratio"] else ""
    return f"<title>{escape(before + row['label'])}: {row['bytes'] / 1e6:.1f} MB, {quality}{ratio}</title>"


def _format_decibels(value: float) -> str:
    return f"{value:.1f} dB"


def draw_heat_maps(outcome: Mapping[str, Any]) -> str:
    """Draw one picture a variant: layers from the input at the top to the output at the bottom, steps from left to
    right."""
    layers = outcome["layers"]
    if not layers or not outcome["heat"]:
        return ""
    maps = "".join(_draw_heat_map(one, layers) for one in outcome["heat"])
    ends = f"<span>{LOW:.0f} dB</span><i></i><span>{HIGH:.0f} dB or more</span><b></b><span>not quantized</span>"
    return f'<div class="qz-maps">{maps}</div><p class="qz-scale">{ends}</p>'


def _draw_heat_map(variant: Mapping[str, Any], layers: Sequence[str]) -> str:
    values = np.array(
        [[math.nan if value is None else value for value in step] for step in variant["steps"]], np.float64
    ).T
    is_known = np.isfinite(values)
    if not is_known.any():
        return ""
    layer, step = np.unravel_index(np.nanargmin(np.where(is_known, values, np.inf)), values.shape)
    lowest = f"{layers[int(layer)]} at step {step + 1}, {values[layer, step]:.0f} dB"
    alt = f"{variant['label']}: SQNR of {len(layers)} layers over {values.shape[1]} steps, lowest in {lowest}"
    picture = _encode_picture(values, is_known)
    blocks = _list_blocks(layers)
    names = "".join(
        f'<span style="top:{100 * start / len(layers):.1f}%">{escape(name)}</span>' for name, start in blocks
    )
    return (
        f'<figure class="qz-map"><figcaption>{escape(variant["label"])}</figcaption><div>'
        f'<div class="qz-blocks">{names}</div>'
        f'<img src="{picture}" alt="{escape(alt)}"></div>'
        f"<p>Lowest output SQNR: {escape(lowest)}</p></figure>"
    )


def _list_blocks(layers: Sequence[str]) -> list[tuple[str, int]]:
    """(name, index of its first layer) of each of the network's parts."""
    blocks: list[tuple[str, int]] = []
    for index, name in enumerate(layers):
        part = name.split(".")[0].replace("_blocks", "").replace("_block", "")
        if not blocks or blocks[-1][0] != part:
            blocks.append((part, index))
    return blocks


def _encode_picture(values: np.ndarray, is_known: np.ndarray) -> str:
    share = np.clip((np.nan_to_num(values, nan=LOW) - LOW) / (HIGH - LOW), 0, 1) * (len(COLORS) - 1)
    below = np.minimum(share.astype(int), len(COLORS) - 2)
    part = (share - below)[..., None]
    colors = (COLORS[below] * (1 - part) + COLORS[below + 1] * part).round().astype(np.uint8)
    pixels = np.where(is_known[..., None], colors, NONE)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _place_x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _place_y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _round_range(low: float, high: float) -> tuple[float, float]:
    """A range of whole tens around both."""
    low, high = math.floor(low / 10) * 10, math.ceil(high / 10) * 10
    return (low, high) if high > low else (low, low + 10)


def _list_round_marks(largest: float) -> list[float]:
    step = 10 ** math.floor(math.log10(largest))
    step = next(size for size in (step / 5, step / 2, step, 2 * step) if largest / size <= 6)
    return [step * count for count in range(int(largest / step) + 1)]


def _draw_rows(low: float, high: float) -> str:
    step = 10 if high - low <= 60 else 20
    lines = []
    for value in np.arange(low, high + 1, step):
        y = _place_y((value - low) / (high - low))
        lines.append(
            f'<line class="qz-grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="qz-tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.0f}</text>'
        )
    return "".join(lines)


def _draw_tick(share: float, text: str) -> str:
    place = f'x="{_place_x(share):.1f}" y="{HEIGHT - BOTTOM + 15}"'
    return f'<text class="qz-tick" {place} text-anchor="middle">{escape(text)}</text>'


def _build_svg(alt: str, inside: str, across: str, up: str) -> str:
    x, y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    names = (
        f'<text class="qz-name" x="{x:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{across}</text>'
        f'<text class="qz-name" x="12" y="{y:.0f}" text-anchor="middle" transform="rotate(-90 12 {y:.0f})">{up}</text>'
    )
    box, role = f'viewBox="0 0 {WIDTH} {HEIGHT}"', f'role="img" aria-label="{escape(alt)}"'
    return f'<svg class="qz-plot" {box} {role}>{inside}{names}</svg>'

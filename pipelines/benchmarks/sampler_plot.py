"""Error against evaluations, both logarithmic, as a small SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["choose_lines", "plot"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 460, 62, 250, 26, 48
COLORS = ("#8a8a8a", "#1f77b4", "#2ca02c", "#9467bd", "#d62728", "#8c564b", "#17becf", "#ff7f0e", "#bcbd22", "#e377c2")
_SHOWN = (
    "diffusers DPM-Solver++(2M), leading",
    "diffusers DPM-Solver++(2M), linspace",
    "DDIM",
    "DPM-Solver++(2M)",
    "UniPC",
    "DEIS",
    "Euler a",
)

Points = list[tuple[float, float]]


def choose_lines(rows: Mapping[str, Any]) -> dict[str, Points]:
    """Label to (evaluations, error) of the lines that a picture can hold: well-known ones and learned ones."""
    names = [name for name in _SHOWN if name in rows] + [
        name for name in rows if name.startswith(("LD3", "AutoDiffusion", "Bespoke"))
    ]
    lines = {}
    for name in names[: len(COLORS)]:
        points = [(float(count), float(cell["error"])) for count, cell in rows[name]["cells"].items() if cell["error"]]
        if points:
            lines[name] = sorted(points)
    return lines


def plot(rows: Mapping[str, object]) -> str:
    """Draw the picture of a benchmark's rows, readable on light and dark pages."""
    lines = choose_lines(rows)
    points = [point for line in lines.values() for point in line]
    if not points:
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"/>\n'
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = min(y for _, y in points) / 1.2, min(4.0, max(y for _, y in points) * 1.2)

    def place(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / low_x) / max(math.log(high_x / low_x), 1e-9)
        up = math.log(min(y, high_y) / low_y) / math.log(high_y / low_y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    parts += _draw_axes(sorted({x for x, _ in points}), low_y, high_y, place)
    for line, color in zip(lines.values(), COLORS, strict=False):
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*point) for point in line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{color}"/>' for a, b in (place(*point) for point in line)
        ]
    parts += _draw_legend(list(lines))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw_axes(
    counts: Sequence[float], low: float, high: float, place: Callable[[float, float], tuple[float, float]]
) -> list[str]:
    elements = []
    for count in counts:
        a, bottom = place(count, low)
        elements.append(f'<line x1="{a:.1f}" y1="{TOP}" x2="{a:.1f}" y2="{bottom:.1f}" stroke="#e4e4e4"/>')
        elements.append(f'<text x="{a:.1f}" y="{bottom + 18:.1f}" text-anchor="middle" fill="#333">{count:g}</text>')
    for error in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4):
        if low <= error <= high:
            a, b = place(counts[0], error)
            end = place(counts[-1], error)[0]
            elements.append(f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{end:.1f}" y2="{b:.1f}" stroke="#e4e4e4"/>')
            elements.append(f'<text x="{a - 8:.1f}" y="{b + 4:.1f}" text-anchor="end" fill="#333">{error:g}</text>')
    elements.append(
        f'<text x="{LEFT}" y="{HEIGHT - 10}" fill="#333">network evaluations, a guidance pair counted as one</text>'
    )
    elements.append(f'<text x="{LEFT - 50}" y="{TOP - 10}" fill="#333">latent error relative to 999 steps</text>')
    return elements


def _draw_legend(names: Sequence[str]) -> list[str]:
    elements = []
    for index, (name, color) in enumerate(zip(names, COLORS, strict=False)):
        y = TOP + 12 + 22 * index
        elements.append(f'<rect x="{WIDTH - RIGHT + 16}" y="{y - 9}" width="12" height="12" fill="{color}"/>')
        elements.append(f'<text x="{WIDTH - RIGHT + 34}" y="{y + 2}" fill="#333">{escape(name)}</text>')
    return elements

"""The search benchmark as a table, a plot, one JSON and a section of docs/search.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["FIGURES", "PLOT", "SECTION", "draw_table", "plot", "write_section"]

_ROOT = Path(__file__).resolve().parents[2]
FIGURES, PLOT = _ROOT / "assets" / "benchmarks" / "search.json", _ROOT / "assets" / "benchmarks" / "search.svg"
SECTION = _ROOT / "docs" / "search.md"
_MULTIPLES = (1, 2, 4, 8, 16)
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 860, 420, 62, 250, 26, 48
_COLORS = ("#8a8a8a", "#1f77b4", "#2ca02c", "#9467bd", "#d62728", "#8c564b", "#17becf", "#ff7f0e", "#bcbd22", "#e377c2")


def draw_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the Markdown table: the best picture's adherence at each budget, and the other judge's at the last."""
    heads = " | ".join(f"{multiple} ×" for multiple in _MULTIPLES)
    lines = [
        f"| search | evaluations of a picture | {heads} | above ½ | other judge | seconds |",
        "| --- | ---: | " + " | ".join("---:" for _ in _MULTIPLES) + " | ---: | ---: | ---: |",
    ]
    for row in rows:
        means = " | ".join("–" if mean is None else f"{mean:.3f}" for mean in row["means"])
        lines.append(
            f"| {row['label']} | {row['cost']:g} | {means} | {row['shares']:.2f} | {row['other']:.3f} "
            f"| {row['seconds']:.1f} |"
        )
    return "\n".join(lines)


def plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw adherence against evaluations in pictures, that axis logarithmic, readable on light and dark pages."""
    across = (_WIDTH - _LEFT - _RIGHT) / (len(_MULTIPLES) - 1)
    low = min((mean for row in rows for mean in row["means"] if mean is not None), default=0.0)
    low = max(0.0, round(low - 0.05, 1))

    def place(index: int, value: float) -> tuple[float, float]:
        up = (value - low) / max(1 - low, 1e-9)
        return _LEFT + across * index, _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
    ]
    for index, multiple in enumerate(_MULTIPLES):
        x, bottom = place(index, low)
        parts.append(f'<text x="{x:.0f}" y="{bottom + 20:.0f}" text-anchor="middle" fill="#333">{multiple} ×</text>')
    for value in [low + (1 - low) * share / 4 for share in range(5)]:
        x, y = place(0, value)
        end = place(len(_MULTIPLES) - 1, value)[0]
        parts.append(f'<line x1="{x:.0f}" y1="{y:.1f}" x2="{end:.0f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 8:.0f}" y="{y + 4:.1f}" text-anchor="end" fill="#333">{value:.2f}</text>')
    for order, row in enumerate(rows):
        color, dash = _COLORS[order % len(_COLORS)], ' stroke-dasharray="5 3"' if order >= len(_COLORS) else ""
        points = [place(index, mean) for index, mean in enumerate(row["means"]) if mean is not None]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        y = _TOP + 8 + 22 * order
        x = _WIDTH - _RIGHT + 20
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}" stroke="{color}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{x + 30}" y="{y + 4}" fill="#333">{escape(row["label"])}</text>')
    middle = _LEFT + across * (len(_MULTIPLES) - 1) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle" fill="#333">evaluations, in pictures</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def write_section(figures: Mapping[str, Any]) -> None:
    """Write the table into docs/search.md, between its marks."""
    text = SECTION.read_text("utf-8")
    count, steps = len(figures["prompts"]), figures["steps"]
    words = f"{count} prompts of two objects, {steps} steps (four with the LoRA), one picture at a time on one core:"
    body = f"<!-- search -->\n{words}\n\n{draw_table(figures['rows'])}\n<!-- end of search -->"
    SECTION.write_text(re.sub(r"<!-- search -->.*?<!-- end of search -->", lambda _: body, text, flags=re.S), "utf-8")

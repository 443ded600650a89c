"""The convergence view's pictures: error against evaluations on two logarithmic scales, and where the time goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from studio.tasks.convergence import describe_left_out
from studio.ui.markup import escape, prose
from studio.ui.presentation import format_duration

__all__ = ["COLORS", "EMPTY", "draw_convergence"]

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 78, 18, 14, 50
COLORS = ("#0f8a7e", "#c2571a", "#5b6ee1", "#b83280", "#6b8e23", "#8a63d2", "#b7791f", "#2b8ac0", "#c53d3d", "#6f7a86")
"""Each is legible on white and on the dark ground."""

DASHES = ("", "7 4", "2 3", "9 3 2 3")
MARKS = ("circle", "square", "diamond", "triangle")
PARTS = (("network", "Network"), ("own", "Sampler's arithmetic"), ("preview", "Previews"), ("decode", "Decoding"))
PART_COLORS = ("#0f8a7e", "#c2571a", "#5b6ee1", "#b7791f")

EMPTY = (
    '<div class="sw-cells-empty"><p class="sw-empty-title">Which sampler converges fastest?</p>'
    "<p>Choose samplers and press Measure: the error of each one’s final latents to a reference run from the "
    "same noise, against its evaluations (NFE), appears point by point.</p></div>"
)

Point = Mapping[str, Any]


def draw_convergence(outcome: Mapping[str, Any]) -> str:
    """Draw the plot, its legend, the times and the numbers of a convergence job's outcome; the empty state without
    points.

    Args:
        outcome: {"labels", "points": [{"sampler", "evaluations", "steps", "error", "seconds"}], "reference_steps",
            "left_out": [{"sampler", "label", "steps", "reason"}]}.
    """
    points = [point for point in outcome.get("points", ()) if math.isfinite(point["error"])]
    left_out = f'<p class="sw-hint">{prose(words)}</p>' if (words := describe_left_out(outcome)) else ""
    if not points:
        return EMPTY + left_out
    labels = outcome["labels"]
    series: dict[int, list[Point]] = {}
    for point in sorted(points, key=lambda one: (one["sampler"], one["evaluations"])):
        series.setdefault(point["sampler"], []).append(point)
    caption = (
        f"Error to a run of {outcome['reference_steps']} steps from the same noise, relative to the latents’ size."
    )
    parts = (
        _plot(series, labels),
        _draw_legend(series, labels),
        _draw_times(series, labels),
        _draw_table(series, labels),
    )
    return (
        f'<div class="sw-convergence"><h2>Error against evaluations</h2><p class="sw-hint">{caption}</p>{left_out}'
        f"{''.join(parts)}</div>"
    )


def _plot(series: Mapping[int, Sequence[Point]], labels: Sequence[str]) -> str:
    all_points = [point for points in series.values() for point in points]
    across = _Scale([point["evaluations"] for point in all_points], LEFT, WIDTH - RIGHT)
    up = _Scale([max(point["error"], 1e-9) for point in all_points], HEIGHT - BOTTOM, TOP)
    lines = "".join(_draw_series(index, points, labels[index], across, up) for index, points in series.items())
    description = escape(_describe_plot(series, labels))
    return (
        '<div class="sw-scroll" tabindex="0" role="region" aria-label="Error against evaluations">'
        f'<svg class="sw-plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{description}">'
        f"{_draw_axes(across, up)}{lines}</svg></div>"
    )


def _describe_plot(series: Mapping[int, Sequence[Point]], labels: Sequence[str]) -> str:
    """The plot in a sentence, for whoever cannot see it."""
    last = max(series.items(), key=lambda one: one[1][-1]["evaluations"])[1][-1]["evaluations"]
    ends = sorted((own[-1]["error"], index, own[-1]["evaluations"]) for index, own in series.items())
    best = ", ".join(f"{labels[index]} {_format_percent(error)} at {count}" for error, index, count in ends[:3])
    return (
        f"Relative error against network evaluations up to {last}, both logarithmic. Lowest error at the end: {best}."
    )


class _Scale:
    """A logarithmic scale from values to pixels, a little wider than the values."""

    def __init__(self, values: Sequence[float], start: float, end: float):
        low, high = math.log10(min(values)), math.log10(max(values))
        room = max(0.04 * (high - low), 0.03)
        self.low, self.high, self.start, self.end = low - room, high + room, start, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[tuple[float, bool]]:
        """(value, labeled): the decades, with 2 and 5 where there is room, and the rest without a label."""
        is_narrow = self.high - self.low < 2.2
        ticks = []
        for decade in range(math.floor(self.low), math.ceil(self.high) + 1):
            for digit in range(1, 10):
                value = digit * 10.0**decade
                if self.low <= math.log10(value) <= self.high:
                    ticks.append((value, digit == 1 or (is_narrow and digit in (2, 5))))
        return ticks


def _draw_axes(across: _Scale, up: _Scale) -> str:
    bottom, parts = HEIGHT - BOTTOM, []
    for value, labeled in across.ticks():
        x = across(value)
        ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"'
        parts.append(f'<line class="sw-rule" data-main="{labeled}" {ends}/>')
        if labeled:
            parts.append(f'<text x="{x:.1f}" y="{bottom + 19}" text-anchor="middle">{value:g}</text>')
    for value, labeled in up.ticks():
        y = up(value)
        ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line class="sw-rule" data-main="{labeled}" {ends}/>')
        if labeled:
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_format_percent(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">network evaluations (NFE)</text>')
    return "".join(parts)


def _draw_series(index: int, points: Sequence[Point], label: str, across: _Scale, up: _Scale) -> str:
    places = [(across(point["evaluations"]), up(max(point["error"], 1e-9))) for point in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    titles = [
        f"{label}: {_format_percent(point['error'])} at {point['evaluations']} evaluations, {point['steps']} steps"
        for point in points
    ]
    marks = "".join(_mark(index, *place, words) for place, words in zip(places, titles, strict=True))
    polyline = f'<polyline points="{line}" stroke-dasharray="{_get_dash(index)}"/>'
    return f'<g style="--own:{_get_color(index)}">{polyline}{marks}</g>'


def _mark(index: int, x: float, y: float, title: str = "") -> str:
    shape = MARKS[index // len(COLORS) % len(MARKS)] if index >= len(COLORS) else MARKS[index % len(MARKS)]
    shapes: Mapping[str, Sequence[tuple[float, float]]] = {
        "square": [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        "diamond": [(0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)],
        "triangle": [(0, -5.5), (5, 4), (-5, 4)],
    }
    corners = shapes.get(shape)
    title_html = f"<title>{escape(title)}</title>" if title else ""
    if corners is None:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.4">{title_html}</circle>'
    points = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)
    return f'<polygon points="{points}">{title_html}</polygon>'


def _draw_legend(series: Mapping[int, Sequence[Point]], labels: Sequence[str]) -> str:
    """The best first, as far as they have come; each with its line as in the plot."""
    order = sorted(series, key=lambda index: series[index][-1]["error"])
    items = "".join(
        f'<li style="--own:{_get_color(index)}"><svg class="sw-plot" viewBox="0 0 34 12" aria-hidden="true">'
        f'<polyline points="1,6 33,6" stroke-dasharray="{_get_dash(index)}"/>{_mark(index, 17, 6)}</svg>'
        f"<span>{escape(labels[index])}</span><b>{_format_percent(series[index][-1]['error'])}</b></li>"
        for index in order
    )
    return f'<ul class="sw-legend">{items}</ul>'


def _draw_times(series: Mapping[int, Sequence[Point]], labels: Sequence[str]) -> str:
    """A bar a sampler: the shares of the time of its longest run."""
    rows = []
    for index, points in series.items():
        seconds = points[-1]["seconds"]
        total = sum(seconds.values()) or 1.0
        bars = "".join(
            f'<i style="width:{100 * seconds[name] / total:.2f}%;background:{color}"></i>'
            for (name, _), color in zip(PARTS, PART_COLORS, strict=True)
        )
        words = ", ".join(f"{label.lower()} {_share(seconds[name] / total)}" for name, label in PARTS)
        ratio = _share(seconds["own"] / (seconds["network"] or 1))
        rows.append(
            f"<tr><th scope='row'>{escape(labels[index])}</th><td><div class='sw-shares' role='img' "
            f"aria-label='{escape(words)}'>{bars}</div></td><td>{ratio}</td><td>{format_duration(total)}</td></tr>"
        )
    keys = "".join(
        f'<li><i style="background:{color}"></i>{label}</li>'
        for (_, label), color in zip(PARTS, PART_COLORS, strict=True)
    )
    return (
        f'<h2>Where the time goes</h2><ul class="sw-legend sw-parts">{keys}</ul>'
        '<div class="sw-table sw-scroll" tabindex="0" role="region" aria-label="Where the time goes"><table><thead>'
        "<tr><th>Longest run</th><th>Shares</th><th>Arithmetic ÷ network</th><th>In all</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _draw_table(series: Mapping[int, Sequence[Point]], labels: Sequence[str]) -> str:
    """Every number, which is also the plot for whoever cannot see it."""
    counts = sorted({point["evaluations"] for points in series.values() for point in points})
    heads = "".join(f"<th scope='col'>{count}</th>" for count in counts)
    rows = []
    for index, points in series.items():
        errors = {point["evaluations"]: point["error"] for point in points}
        cells = "".join(f"<td>{_format_percent(errors[count]) if count in errors else ''}</td>" for count in counts)
        rows.append(f"<tr><th scope='row'>{escape(labels[index])}</th>{cells}</tr>")
    return (
        '<details class="sw-table"><summary>All errors, by evaluations</summary><div class="sw-scroll" tabindex="0" '
        f'role="region" aria-label="Errors by evaluations"><table><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _get_color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _get_dash(index: int) -> str:
    return DASHES[index // len(COLORS) % len(DASHES)]


def _format_percent(error: float) -> str:
    return f"{100 * error:.3g} %" if error >= 1e-4 else f"{100 * error:.1e} %"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"

"""A fit as a picture: the error of every round, the population of an evolution, and the times that came out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from studio.ui.markup import escape

__all__ = ["EMPTY", "USES", "learn_view"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 320, 62, 18, 14, 46
LOSS, HELD = "#0f8a7e", "#c2571a"
USES = {
    "text_to_image": ("Use it", "Open Text to image with this schedule, its model, sampler and steps"),
    "compare": ("Compare with uniform", "Fill the cells with this schedule and the uniform one, at equal steps"),
}
"""The tab that takes a fitted schedule to its button's label and title."""

EMPTY = (
    '<div class="sw-cells-empty"><p class="sw-empty-title">Fewer steps, closer to the reference run</p>'
    "<p>Press Fit: for the shared model, sampler, guidance and steps, the times are learned that end closest to where "
    "a reference run of many steps ends. The curve appears round by round.</p></div>"
)

_SCORED = "The line is the chosen score, the dots the final latents' distance from the reference run's."


def learn_view(outcome: Mapping[str, Any]) -> str:
    """Draw the curve, its legend and the result of a fit's outcome; the empty state before the first round.

    Args:
        outcome: {"curve": [{"round", "loss", "held_out"?, "population"?}], "learner", and at the end "name",
            "schedule"}.
    """
    curve = [row for row in outcome.get("curve", ()) if math.isfinite(row["loss"]) and row["loss"] > 0]
    if not curve:
        return EMPTY
    evolving = any("population" in row for row in curve)
    is_corrected = outcome.get("learner") == "q_sched"
    hint = _SCORED if is_corrected else "Of the final latents, relative to the reference run’s."
    keys = [
        ("best so far" if evolving or is_corrected else "pictures of the round", LOSS),
        ("population" if evolving else "held-out pictures", HELD),
    ]
    legend = "".join(f'<li><i style="background:{color}"></i>{escape(name)}</li>' for name, color in keys)
    return (
        '<div class="sw-convergence"><h3>Error by round</h3><p class="sw-hint">'
        f"{hint}</p>{_plot(curve)}<ul class='sw-legend sw-parts'>{legend}</ul>{_format_result(outcome)}</div>"
    )


def _plot(curve: Sequence[Mapping[str, Any]]) -> str:
    dots = [
        (row["round"], value)
        for row in curve
        for value in (*row.get("population", ()), *_get_held_out(row))
        if math.isfinite(value) and value > 0
    ]
    values = [row["loss"] for row in curve] + [value for _, value in dots]
    low, high = math.log(min(values)), math.log(max(min(max(values), 20 * min(values)), min(values) * 1.2))
    last = max(curve[-1]["round"], 1)

    def place(at: float, value: float) -> tuple[float, float]:
        up = min(1.0, (math.log(value) - low) / (high - low))
        return LEFT + at / last * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(row["round"], row["loss"]) for row in curve))
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4"><title>{value:.4f} in round {at}</title></circle>'
        for (x, y), (at, value) in ((place(*dot), dot) for dot in dots)
    )
    description = (
        f"From {curve[0]['loss']:.3f} in round {curve[0]['round']} to {curve[-1]['loss']:.3f} in round "
        f"{curve[-1]['round']}."
    )
    return (
        f'<svg class="sw-plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{description}">{_draw_axes(low, high, last, place)}'
        f'<g style="--own:{HELD}">{marks}</g><g style="--own:{LOSS}"><polyline points="{line}"/></g></svg>'
    )


def _get_held_out(row: Mapping[str, Any]) -> tuple[float, ...]:
    return (row["held_out"],) if row.get("held_out") is not None else ()


def _draw_axes(low: float, high: float, last: int, place: Any) -> str:
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        value = math.exp(low + share * (high - low))
        x, y = place(0, value)
        parts.append(f'<line class="sw-rule" x1="{x:.1f}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:.3f}</text>')
    for at in sorted({0, last // 2, last}):
        x, y = place(at, math.exp(low))
        parts.append(f'<text x="{x:.1f}" y="{y + 19:.1f}" text-anchor="middle">{at}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">round</text>')
    return "".join(parts)


def _format_result(outcome: Mapping[str, Any]) -> str:
    schedule = outcome.get("schedule")
    if not schedule:
        return ""
    fitted, uniform = schedule["held_out"]["fitted"], schedule["held_out"]["uniform"]
    times = ", ".join(f"{time:.0f}" for time in schedule["times"])
    pair = schedule.get("coefficients")
    words = f" Coefficients of the first step: latents {pair[0]:.3f}, output {pair[1]:.3f}." if pair else ""
    buttons = "".join(
        f'<button type="button" class="sw-act" data-use="{key}" title="{title}">{label}</button>'
        for key, (label, title) in USES.items()
    )
    return (
        f'<p id="cmp-learn-result"><b>{escape(outcome["name"])}</b>: error {fitted:.4f} on held-out pictures, '
        f"uniform {uniform:.4f}. Saved as the schedule <b>Learned</b> of this model, sampler and "
        f"{schedule['num_inference_steps']} steps.</p>"
        f'<div class="sw-result-acts" role="group" aria-label="What to do with this schedule">{buttons}</div>'
        f'<p class="sw-hint">Timesteps: {times}.{words}</p>'
    )

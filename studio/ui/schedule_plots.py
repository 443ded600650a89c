"""The chosen schedule as two plots: the noise level and the signal-to-noise ratio before every step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import StepwiseError
from pipelines.core.schedule import Level, NoiseSchedule
from pipelines.core.types import Request
from pipelines.models.noise_schedules import read_noise_schedule
from pipelines.schedules import SCHEDULES, levels_for
from studio.ui import markup
from studio.ui.markup import escape

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["find_noise_schedule", "schedule_plots", "schedule_view"]

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40


def schedule_view(studio: Studio, values: Mapping[str, object]) -> str:
    """Draw the plots of a request's schedule for its model; returns the sentence that says why there are none
    otherwise.

    Args:
        studio: the backend.
        values: fields of a `Request`; a learned schedule depends on the sampler and the guidance too.
    """
    try:
        request = Request.parse(values)
        noise_schedule = find_noise_schedule(studio, request.model, (request.width, request.height))
        if noise_schedule is None:
            return '<p class="sw-hint">The plots appear once the model is on this machine.</p>'
        return schedule_plots(
            levels_for(request, noise_schedule, studio.learned), SCHEDULES[request.schedule.key].label
        )
    except StepwiseError as error:
        return markup.notice(str(error))


def find_noise_schedule(studio: Studio, model: str, size: tuple[int, int]) -> NoiseSchedule | None:
    """Find a model's own noise schedule, from its scheduler's file alone; None where that is not on this machine."""
    entry = studio.catalog[model]
    if loaders := [loader for loader in studio.loaders if loader.loaded(model)]:
        with loaders[0].model(model) as family:
            compute = getattr(family, "noise_schedule_for", None)
            return compute(*size) if compute else None
    return read_noise_schedule(entry.path, size) if entry.path else None


def schedule_plots(levels: Sequence[Level], label: str) -> str:
    """Draw two plots of the levels before each step and of the last one; a clean end lies on the ground line.

    Args:
        levels: N + 1, descending.
        label: of the schedule.
    """
    decibels = [20 * math.log10(level.alpha / level.sigma) if level.alpha and level.sigma else None for level in levels]
    noise = [math.log10(level.sigma_ve) if level.sigma and level.alpha else None for level in levels]
    count = len(levels) - 1
    first = next((level for level in levels if level.alpha and level.sigma), levels[0])
    words = f"over {count} step{'s' * (count != 1)} of the schedule {label}"
    return (
        '<div class="sw-schedule-plots">'
        + _draw_figure(
            noise,
            f"Noise level sigma ÷ alpha {words}, from {first.sigma_ve:.3g} down",
            f"Noise level {markup.term('σ', 'σ / α')}",
            lambda value: f"{10**value:.3g}",
        )
        + _draw_figure(
            decibels,
            f"Signal-to-noise ratio {words}, rising from {decibels[levels.index(first)] or 0:.0f} dB",
            "Signal-to-noise ratio, dB",
            lambda value: str(round(value)),
        )
        + "</div>"
    )


def _draw_figure(values: Sequence[float | None], description: str, caption: str, write: Any) -> str:
    """A line over the steps; values of None, at an end without noise or without signal, are left out."""
    finite = [value for value in values if value is not None] or [0.0]
    low, high = min(finite), max(finite)
    span, bottom = (high - low) or 1.0, HEIGHT - BOTTOM
    count = max(1, len(values) - 1)

    def place(index: int, value: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * index / count
        return across, bottom - 6 - (bottom - TOP - 12) * (value - low) / span

    places = [place(index, value) for index, value in enumerate(values) if value is not None]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in places) if count <= 60 else ""
    rules = "".join(_draw_rule(place(0, low + share * span)[1], write(low + share * span)) for share in (0, 0.5, 1))
    across = "".join(
        f'<text x="{place(index, low)[0]:.1f}" y="{bottom + 18}" text-anchor="middle">{index}</text>'
        for index in sorted({0, count // 2, count})
    )
    middle = (LEFT + WIDTH - RIGHT) / 2
    return (
        f'<figure><svg class="sw-plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'
        f'{rules}{across}<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">step</text>'
        f'<polyline points="{line}"/>{dots}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _draw_rule(y: float, text: str) -> str:
    ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
    return f'<line class="sw-rule" {ends}/><text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'

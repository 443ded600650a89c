"""A search's population in the viewer: the best, those that were judged last, and the reward against evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from studio.jobs.job import Population, SearchedPicture, View
from studio.media.live_image import encode_picture_url
from studio.ui import markup
from studio.ui.live_routes import Parts
from studio.ui.presentation import format_evaluations, format_number

__all__ = ["build_curve", "build_parts"]

_WIDTH, _HEIGHT, _MARGIN = 320, 96, 8


def build_parts(view: View, population: Population, prefix: str, stored: Mapping[str, str | None]) -> Parts:
    """Build the parts that show a population; while it runs the best is the picture, afterwards the stored file.

    Args:
        view: of the job.
        population: of its cell.
        prefix: of the viewer's ids.
        stored: the best picture's file, result and seed, once it is stored.
    """
    best = encode_picture_url(population.best.image)
    figures = [
        ("Best reward", format_number(population.best.reward)),
        ("Of", population.best.name),
        ("Evaluations (NFE)", f"{format_evaluations(population.spent)} of {population.budget}"),
    ]
    parts: Parts = {
        "batch": {"html": _build_strip(population, prefix, stored), "hidden": None},
        "caption": {"html": build_curve(population) + markup.figures(figures)},
    }
    if not view.status.final:
        hidden = {"hidden": ""}
        parts |= {
            "hero": {"src": best, "data-result": None, "data-seed": None},
            "tools": hidden,
            "picture": {"hidden": None},
            "empty": hidden,
        }
    return parts


def _build_strip(population: Population, prefix: str, stored: Mapping[str, str | None]) -> str:
    others = [picture for picture in reversed(population.latest) if picture is not population.best]
    best = _build_thumbnail(population.best, True, prefix, stored)
    return best + "".join(_build_thumbnail(picture, False, prefix, {}) for picture in others)


def _build_thumbnail(picture: SearchedPicture, is_best: bool, prefix: str, stored: Mapping[str, str | None]) -> str:
    reward = format_number(picture.reward)
    estimate = "" if picture.finished else ", an estimate part of the way"
    title = f"{picture.name}, reward {reward}{estimate}"
    file = stored.get("file")
    source = f'data-file="{file}"' if file else f'src="{encode_picture_url(picture.image)}"'
    result = "".join(f' {name}="{stored[name]}"' for name in ("data-result", "data-seed") if stored.get(name))
    kind = " sw-estimate" if not picture.finished else ""
    return (
        f'<button type="button" class="thumbnail-item{kind}" data-shows="{prefix}-picture"{result} '
        f'aria-pressed="{"true" if is_best else "false"}" title="{escape(title)}">'
        f'<img {source} alt="{escape(title)}">'
        f"<small>{'best ' if is_best else ''}{reward}</small></button>"
    )


def build_curve(population: Population) -> str:
    """Draw the best reward so far against the evaluations, as steps."""
    curve = population.curve
    if not curve:
        return ""
    rewards = [reward for _, reward in curve]
    low, high = min(rewards), max(rewards)
    most = max(population.budget, population.spent, 1)

    def place(spent: float, reward: float) -> tuple[float, float]:
        share = (reward - low) / (high - low) if high > low else 0.5
        return _MARGIN + (_WIDTH - 2 * _MARGIN) * spent / most, _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * share

    points, before = [], rewards[0]
    for spent, reward in curve:
        points += [place(spent, before), place(spent, reward)]
        before = reward
    points.append(place(population.spent, before))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    bottom = _HEIGHT - 2
    label = f"Best reward {format_number(before)} after {format_evaluations(population.spent)} evaluations"
    return (
        f'<svg class="sw-curve sw-of-a-search" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f'<line x1="{_MARGIN}" y1="{bottom}" x2="{_WIDTH - _MARGIN}" y2="{bottom}"/>'
        f'<polyline points="{line}"/><circle class="sw-here" cx="{x:.1f}" cy="{y:.1f}" r="4"/></svg>'
    )

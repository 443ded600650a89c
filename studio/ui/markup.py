"""The page's own pieces of HTML. Every string that is not ours is escaped here, and nowhere else."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from studio.jobs.job import JobStatus, StepRow

__all__ = [
    "EMPTY_STAGE",
    "EMPTY_TRAJECTORY",
    "ICON_DOWNLOAD",
    "ICON_FULLSCREEN",
    "escape",
    "figures",
    "header",
    "noise_curve",
    "notice",
    "progress",
    "prompt_hint",
]

CURVE_WIDTH, CURVE_HEIGHT, CURVE_MARGIN = 320, 72, 8

EMPTY_STAGE = """
<div class="sw-empty-inner">
  <svg viewBox="0 0 300 60" role="img" aria-label="A picture emerging from noise in five steps">
    <defs><filter id="sw-grain" x="0" y="0" width="100%" height="100%">
      <feTurbulence type="fractalNoise" baseFrequency="0.55" numOctaves="2" seed="7"/>
      <feColorMatrix type="saturate" values="1.6"/><feComposite operator="in" in2="SourceGraphic"/></filter></defs>
    <g class="sw-emerge">EMERGE</g>
  </svg>
  <p class="sw-empty-title">Every denoising step, as it happens</p>
  <p>Write a prompt and generate: the model’s estimate of the finished picture appears here after its first step.</p>
</div>
""".replace(
    "EMERGE",
    "".join(
        f'<g transform="translate({4 + 60 * i} 4)"><rect width="52" height="52" rx="10" class="sw-emerge-ground"/>'
        f'<circle cx="26" cy="26" r="15" class="sw-emerge-sun" opacity="{i / 4:.2f}"/>'
        f'<rect width="52" height="52" rx="10" filter="url(#sw-grain)" opacity="{1 - i / 4:.2f}"/></g>'
        for i in range(5)
    ),
)

ICON_DOWNLOAD = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 4v11m-5-5 5 5 5-5M5 20h14"/></svg>'
ICON_FULLSCREEN = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M4 9V4h5m6 0h5v5m0 6v5h-5m-6 0H4v-5"/></svg>'

EMPTY_TRAJECTORY = (
    "<p class='sw-hint'>Step by step: the noisy latents, the estimate of the finished picture in them, and the "
    "noise level. After a run, move through it here.</p>"
)


def escape(text: object) -> str:
    """Text for HTML; braces and dollars too, since the page's HTML component reads them as a template."""
    plain = html.escape(str(text))
    return plain.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;").replace("`", "&#96;")


def header(name: str, purpose: str, status: Sequence[str]) -> str:
    """The page's head: name, purpose, what it runs on, and the switch between light and dark."""
    chips = "<span>·</span>".join(f"<span>{escape(part)}</span>" for part in status)
    return f"""
<header class="sw-header">
  <svg class="sw-mark" viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8"/>
    <path d="M6 24h5v-5h5v-5h5V9h5"/></svg>
  <h1>{escape(name)}</h1>
  <p class="sw-purpose">{escape(purpose)}</p>
  <p class="sw-chip"><i aria-hidden="true"></i>{chips}</p>
  <button class="sw-theme" type="button" aria-label="Switch between light and dark" title="Light or dark">
    <svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="8"/><path d="M12 4a8 8 0 0 1 0 16z"/></svg>
  </button>
</header>"""


def prompt_hint(lists: Sequence[str]) -> str:
    """What a prompt may hold besides words; `lists` are the names of the wildcard lists at hand."""
    names = f" · <code>{escape(f'__{lists[0]}__')}</code> a line of that list" if lists else ""
    title = escape("Lists: " + ", ".join(lists)) if lists else ""
    draw = escape("{fox|cat}")
    return (
        f'<p class="sw-hint" title="{title}"><code>(word:1.3)</code> weighs · <code>{draw}</code> draws one{names}</p>'
    )


def progress(status: JobStatus | None, parts: Sequence[str], done: int = 0, total: int = 0) -> str:
    """The bar and the line under the picture; a total of 0 is not known yet."""
    if status is None:
        return ""
    texts = "".join(f"<span>{escape(part)}</span>" for part in parts)
    share = 100 * done / total if total else 0
    told = ' role="status"' if status.final else ""
    now = f'aria-valuenow="{done}" aria-valuemax="{total}"' if total else ""
    return (
        f'<div class="sw-progress" data-status="{status.value}">'
        f'<div class="sw-bar" role="progressbar" aria-label="Steps done" aria-valuemin="0" {now}>'
        f'<i style="width:{share:.1f}%"></i></div><p{told}>{texts}</p></div>'
    )


def notice(text: str, kind: str = "problem", notes: Sequence[str] = ()) -> str:
    """One calm sentence above the picture: kind "problem" or "news"; notes become a list below it."""
    if not text:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    role = "alert" if kind == "problem" else "status"
    below = f"<ul>{items}</ul>" if items else ""
    return f'<div class="sw-notice" data-kind="{kind}" role="{role}"><p>{escape(text)}</p>{below}</div>'


def figures(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values in a row."""
    if not pairs:
        return ""
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="sw-figures">{cells}</dl>'


def noise_curve(rows: Sequence[StepRow], step: int, total: int) -> str:
    """The noise level over the steps, on a logarithmic scale, with the present step marked.

    Args:
        rows: the finished steps.
        step: the marked one, from 1.
        total: steps of the whole run.
    """
    if not rows:
        return ""
    points = _curve_points(rows, total)
    x, y = points[step - 1]
    bottom = CURVE_HEIGHT - CURVE_MARGIN
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="1.6"/>' for a, b in points) if total <= 60 else ""
    return (
        f'<svg class="sw-curve" viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" role="img" '
        f'aria-label="Noise level falling over {total} steps; step {step} is marked">'
        f'<line x1="{CURVE_MARGIN}" y1="{bottom}" x2="{CURVE_WIDTH - CURVE_MARGIN}" y2="{bottom}"/>'
        f'<polyline points="{line}"/>{dots}<line class="sw-here" x1="{x:.1f}" y1="2" x2="{x:.1f}" y2="{bottom}"/>'
        f'<circle class="sw-here" cx="{x:.1f}" cy="{y:.1f}" r="4"/></svg>'
    )


def _curve_points(rows: Sequence[StepRow], total: int) -> list[tuple[float, float]]:
    """Where each step stands; the last one, at zero noise, lies on the ground line."""
    logs = [math.log(row.sigma) for row in rows if row.sigma > 0 and math.isfinite(row.sigma)]
    low, high = (min(logs), max(logs)) if logs else (0.0, 0.0)
    span, width = (high - low) or 1.0, CURVE_WIDTH - 2 * CURVE_MARGIN
    height = CURVE_HEIGHT - 2 * CURVE_MARGIN
    points = []
    for row in rows:
        x = CURVE_MARGIN + width * (row.index / max(1, total - 1))
        share = (
            0.0
            if row.sigma <= 0
            else 1.0
            if math.isinf(row.sigma)
            else 0.12 + 0.88 * (math.log(row.sigma) - low) / span
        )
        points.append((x, CURVE_HEIGHT - CURVE_MARGIN - height * share))
    return points

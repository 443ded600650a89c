"""The page's own pieces of HTML. Every string that is not ours is escaped here, and nowhere else."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence

from pipelines.emoji.vocabulary import Vocabulary
from studio.jobs.job import JobStatus, StepRow
from studio.ui.presentation import TOOLTIPS

__all__ = [
    "EMPTY_TRAJECTORY",
    "ICON_DOWNLOAD",
    "ICON_FULLSCREEN",
    "ICON_PLAY",
    "escape",
    "example",
    "figures",
    "header",
    "noise_curve",
    "notice",
    "progress",
    "prompt_hint",
    "prose",
    "term",
    "vocabulary",
]

CURVE_WIDTH, CURVE_HEIGHT, CURVE_MARGIN = 320, 72, 8


def example(picture: str, alt: str, title: str, text: str, chip: str) -> str:
    """Build what a tab shows before its first run: a finished example of its own, faded, and a button that runs it.

    Args:
        picture: its address, a data URL.
        alt: what it shows.
        title, text: what the tab does, and how to begin.
        chip: id of the example's button, which "Try it" presses before it runs.
    """
    return (
        f'<img class="sw-example" src="{picture}" alt="{escape(alt)}"><div class="sw-empty-inner">'
        f'<p class="sw-empty-title">{escape(title)}</p><p>{escape(text)}</p>'
        f'<button type="button" class="sw-try" data-try="{chip}">Try it</button></div>'
    )


ICON_DOWNLOAD = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 4v11m-5-5 5 5 5-5M5 20h14"/></svg>'
ICON_PLAY = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M8 5v14l11-7z"/></svg>'
ICON_FULLSCREEN = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M4 9V4h5m6 0h5v5m0 6v5h-5m-6 0H4v-5"/></svg>'

EMPTY_TRAJECTORY = (
    "<p class='sw-hint'>Step by step: the noisy latents, the preview of the finished picture, and the noise "
    "level. After a run, go through its steps here.</p>"
)


def escape(text: object) -> str:
    """Escape text for HTML; braces and dollars too, since the page's HTML component reads them as a template."""
    escaped = html.escape(str(text))
    return escaped.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;").replace("`", "&#96;")


def prose(text: object) -> str:
    """Write a sentence for HTML, in which what stands between backticks is set as code."""
    return re.sub("&#96;(.+?)&#96;", r"<code>\1</code>", escape(text))


_SIGN_OUT = '<form class="sw-sign-out" method="post" action="logout"><button type="submit">Sign out</button></form>'


def header(name: str, purpose: str, status: Sequence[str], signs_in: bool = False, notes: Sequence[str] = ()) -> str:
    """Build the page's head: name, purpose, what it runs on, and the switch between light and dark.

    Args:
        name: of the studio.
        purpose: in a few words.
        status: what it runs on, each in a word or two.
        signs_in: whether people sign in, and so can sign out.
        notes: what whoever uses it should know of the pictures made here, as sentences.
    """
    purpose_html = "".join(f'<p class="sw-purpose">{escape(note)}</p>' for note in notes)
    chips = "<span>·</span>".join(f"<span>{escape(part)}</span>" for part in status)
    return f"""
<header class="sw-header">
  <svg class="sw-mark" viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8"/>
    <path d="M6 24h5v-5h5v-5h5V9h5"/></svg>
  <h1>{escape(name)}</h1>
  <p class="sw-purpose">{escape(purpose)}</p>
  {purpose_html}<p class="sw-chip"><i aria-hidden="true"></i>{chips}</p>{_SIGN_OUT if signs_in else ""}
  <button class="sw-level" type="button" aria-pressed="false" title="Hide what only experts set">Simple</button>
  <button class="sw-theme" type="button" aria-label="Switch between light and dark" title="Light or dark">
    <svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="8"/><path d="M12 4a8 8 0 0 1 0 16z"/></svg>
  </button>
</header>"""


_SYNTAX = (
    ("(word:1.3)", "weighs", "(word) is 1.1 times as strong, [word] weaker by as much; \\( is a bracket of your own"),
    ("{fox|cat}", "draws", "{2$$fox|cat|owl} draws two, {3::fox|cat} the fox three times as often"),
    ("[fox:cat:0.5]", "switches", "halfway; [fox:cat:8] after step 8, [cat:0.5] adds, [fox::0.5] leaves out"),
    ("[fox|cat]", "alternates", "one a step, in turn"),
    ("AND", "composes", "as in fox AND cat :0.7; each part is evaluated by itself and has its own weight"),
    ("BREAK", "", "begins a new chunk of the 75 tokens that a CLIP text encoder reads at a time"),
    ("<lora:name:0.8>", "", "adds a LoRA of the models folder, with its weight"),
)


def prompt_hint(lists: Sequence[str], note: str = "") -> str:
    """Say what a prompt may hold besides words.

    Args:
        lists: names of the wildcard lists at hand.
        note: what of it the chosen model does not read, as a sentence.
    """
    parts = [
        f'<span title="{escape(more)}"><code>{escape(example)}</code>{escape(f" {does}" if does else "")}</span>'
        for example, does, more in _SYNTAX
    ]
    if lists:
        title = escape("Lists: " + ", ".join(lists))
        parts.insert(2, f'<span title="{title}"><code>{escape(f"__{lists[0]}__")}</code> a line of that list</span>')
    note_html = f" <em>{escape(note)}</em>" if note else ""
    return f'<p class="sw-hint">{" · ".join(parts)}{note_html}</p>'


def vocabulary(label: str, words: Vocabulary | None) -> str:
    """List what a model with a small vocabulary can draw, for the page's script (assets/js/vocabulary.js); "" of
    others.

    Args:
        label: the model's name.
        words: None where the model may know any word.
    """
    if words is None:
        return ""
    content = {
        "model": label,
        "subjects": words.subjects,
        "backgrounds": words.backgrounds,
        "words": sorted(words.words),
    }
    return (
        '<p class="sw-offers" role="group" aria-label="Words that begin so"></p>'
        '<p class="sw-unknown" role="status" hidden><span></span> It draws what is listed below.</p>'
        f'<details class="sw-vocabulary" data-vocabulary="{escape(json.dumps(content, separators=(",", ":")))}">'
        f'<summary>What can {escape(label)} draw?</summary><p class="sw-hint">{len(words.subjects)} things on '
        f"{len(words.backgrounds)} colors. Choose a thing and a color, or write them.</p>"
        '<div class="sw-grounds" role="group" aria-label="Colors"></div>'
        '<div class="sw-subjects" role="group" aria-label="Things"></div></details>'
    )


def progress(status: JobStatus | None, parts: Sequence[str], done: int = 0, total: int = 0) -> str:
    """Build the bar and the line under the picture; a total of 0 is not known yet."""
    if status is None:
        return ""
    texts = "".join(f"<span>{escape(part)}</span>" for part in parts)
    share = 100 * done / total if total else 100 * (status is JobStatus.DONE)  # some work has no steps
    role = ' role="status"' if status.final else ""
    value_attributes = f'aria-valuenow="{done}" aria-valuemax="{total}"' if total else ""
    return (
        f'<div class="sw-progress" data-status="{status.value}">'
        f'<div class="sw-bar" role="progressbar" aria-label="Steps done" aria-valuemin="0" {value_attributes}>'
        f'<i style="width:{share:.1f}%"></i></div><p{role}>{texts}</p></div>'
    )


def notice(text: str, kind: str = "problem", notes: Sequence[str] = ()) -> str:
    """Build one calm sentence above the picture: kind "problem" or "news"; notes become a list below it."""
    if not text:
        return ""
    items = "".join(f"<li>{prose(note)}</li>" for note in notes)
    role = "alert" if kind == "problem" else "status"
    below = f"<ul>{items}</ul>" if items else ""
    return f'<div class="sw-notice" data-kind="{kind}" role="{role}"><p>{prose(text)}</p>{below}</div>'


def figures(pairs: Sequence[tuple[str, str]]) -> str:
    """Return names and values in a row, the field's abbreviations with a tooltip."""
    if not pairs:
        return ""
    cells = "".join(f"<div><dt>{term(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="sw-figures">{cells}</dl>'


def term(name: str, shown: str = "") -> str:
    """Return a name with the page's sentence on it, which the pointer, a finger and the keyboard open.

    Args:
        name: a key of `TOOLTIPS`; another is returned as it is.
        shown: what stands on the page; by default the name.
    """
    shown = escape(shown or name)
    if name not in TOOLTIPS:
        return shown
    sentence = escape(TOOLTIPS[name])
    return (
        f'<button type="button" class="sw-term" data-tip="{sentence}" aria-label="{shown}: {sentence}">{shown}</button>'
    )


def noise_curve(rows: Sequence[StepRow], step: int, total: int) -> str:
    """Draw the noise level over the steps, on a logarithmic scale, with the present step marked.

    Under a run with a cache stand bars: the share of the network that each step ran.

    Args:
        rows: the finished steps.
        step: the marked one, from 1.
        total: steps of the whole run.
    """
    if not rows:
        return ""
    points = _place_curve_points(rows, total)
    x, y = points[step - 1]
    bottom = CURVE_HEIGHT - CURVE_MARGIN
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="1.6"/>' for a, b in points) if total <= 60 else ""
    return (
        f'<svg class="sw-curve" data-total="{total}" data-margin="{CURVE_MARGIN / CURVE_WIDTH}" '
        f'viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" role="img" '
        f'aria-label="Noise level falling over {total} steps; step {step} is marked">'
        f"{_draw_work(rows, points, total)}"
        f'<line x1="{CURVE_MARGIN}" y1="{bottom}" x2="{CURVE_WIDTH - CURVE_MARGIN}" y2="{bottom}"/>'
        f'<polyline points="{line}"/>{dots}<line class="sw-here" x1="{x:.1f}" y1="2" x2="{x:.1f}" y2="{bottom}"/>'
        f'<circle class="sw-here" cx="{x:.1f}" cy="{y:.1f}" r="4"/></svg>'
    )


def _draw_work(rows: Sequence[StepRow], points: Sequence[tuple[float, float]], total: int) -> str:
    """Bars of what each step ran of the network; none where every step ran all of it."""
    if not any(row.skipped for row in rows):
        return ""
    width = max(1.0, 0.5 * (CURVE_WIDTH - 2 * CURVE_MARGIN) / max(total, 1))
    heights = [(CURVE_HEIGHT / 3) * (1 - row.skipped) for row in rows]
    bars = "".join(
        f'<rect x="{x - width / 2:.1f}" y="{CURVE_HEIGHT - CURVE_MARGIN - height:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}"/>'
        for (x, _), height in zip(points, heights, strict=True)
    )
    return f'<g class="sw-work"><title>Bars: the share of the network that each step ran</title>{bars}</g>'


def _place_curve_points(rows: Sequence[StepRow], total: int) -> list[tuple[float, float]]:
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

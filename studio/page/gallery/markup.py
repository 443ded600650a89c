"""The gallery's own HTML: tiles, one opened result, two under a slider."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.types import Request
from pipelines.guidance import GUIDANCE
from pipelines.initializations import INITIALIZATIONS
from pipelines.quantizers import QUANTIZERS
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from studio.results.store import Record
from studio.ui.markup import escape, figures
from studio.ui.presentation import duration, number, plural
from studio.ui.results_route import address, archive_address

__all__ = ["EMPTY", "NOTHING_FOUND", "archive", "caption", "kind_label", "opened", "pair", "tiles"]

KINDS = {
    "text_to_image": "Text to image",
    "compare": "Compare",
    "comparison": "Comparison sheet",
    "edit": "Edit",
    "video": "Video",
    "animate": "Video",
    "quantize": "Quantize",
}
TABLES = {
    "sampler": SAMPLERS,
    "schedule": SCHEDULES,
    "guidance": GUIDANCE,
    "start": INITIALIZATIONS,
    "quantization": QUANTIZERS,
}
_PLAIN_START = Request().start.to_json()
CLIPS = frozenset({".mp4", ".webm", ".mov", ".mkv"})
STILLS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif"})

EMPTY = (
    '<div class="sw-cells-empty"><p class="sw-empty-title">Everything you make is kept here</p>'
    "<p>Generate a picture: it appears with its prompt and all its settings, to look at again, to compare and to "
    "make anew.</p></div>"
)
NOTHING_FOUND = (
    '<div class="sw-cells-empty"><p class="sw-empty-title">Nothing found</p>'
    "<p>No result has these words in its prompt and is of this kind. Try fewer words, or all kinds.</p></div>"
)


def kind_label(kind: str) -> str:
    """What made a result, in words."""
    return KINDS.get(kind) or kind.replace("_", " ").capitalize() or "Result"


def caption(record: Record) -> str:
    """The prompt, or what it is where it has none: the alternative text of its picture."""
    return " ".join(record.prompt.split()) or f"{kind_label(record.kind)}, without a prompt"


def _moment(created: float) -> str:
    then = time.localtime(created)
    year = f" {then.tm_year}" if then.tm_year != time.localtime().tm_year else ""
    return f"{then.tm_mday} {time.strftime('%b', then)}{year}, {then.tm_hour:02d}:{then.tm_min:02d}"


def tiles(shown: Sequence[tuple[Record, Path | None]], name: str = "", hidden: bool = False) -> str:
    """A grid of results, each with its small picture, if it has one.

    The page's script gives the pictures their addresses, since only the browser knows the studio's own.

    Args:
        shown: results with their small pictures.
        name: of the list that they belong to.
        hidden: for a page that the script moves to the end of the list of this name.
    """
    pieces = "".join(_tile(record, small) for record, small in shown)
    return f'<ul class="sw-shelf" data-list="{escape(name)}"{" hidden" if hidden else ""}>{pieces}</ul>'


def _tile(record: Record, small: Path | None) -> str:
    name = escape(caption(record))
    identity = escape(record.id)
    clip = " data-clip" if record.kind == "video" else ""
    return (
        f'<li class="sw-piece" data-id="{identity}"{clip}>'
        f'<button type="button" class="sw-open" data-action="open" data-id="{identity}" '
        f'title="{name}">{_face(record, small)}</button>'
        f'<label class="sw-pick"><input type="checkbox" value="{identity}" aria-label="Choose: {name}"></label>'
        f'<p class="sw-piece-name">{name}</p>'
        f'<p class="sw-piece-facts"><span>{escape(kind_label(record.kind))}</span>'
        f"<span>{escape(_moment(record.created))}</span></p></li>"
    )


def _face(record: Record, small: Path | None) -> str:
    name, suffix = escape(caption(record)), record.path.suffix.lower()
    if small is not None:
        whole, shown = address(record.id), address(record.id) + ("" if small == record.path else "/small")
        whole = f' data-whole="{escape(whole)}"' if suffix in STILLS else ""
        return f'<img loading="lazy" decoding="async" alt="{name}" data-file="{escape(shown)}"{whole}>'
    if suffix in CLIPS:
        return (
            f'<video muted playsinline preload="metadata" aria-label="{name}" data-file="{escape(address(record.id))}">'
            f"</video>"
        )
    words = "cannot be shown" if suffix in STILLS else suffix.lstrip(".").upper()
    return f'<span class="sw-plain"><b>{escape(words)}</b><span class="sw-heard">{name}</span></span>'


def opened(record: Record, label: str) -> str:
    """One result: the whole picture, its settings and figures, its file to keep.

    Args:
        record: of the store.
        label: of the model that made it; "" where that is not known.
    """
    name, file = escape(caption(record)), escape(address(record.id))
    text = (
        f'<details class="sw-raw"><summary>All settings as text</summary>'
        f'<pre tabindex="0">{escape(record.parameters)}</pre></details>'
        if record.parameters
        else ""
    )
    return (
        f'<div class="sw-opened" data-id="{escape(record.id)}"><div class="sw-whole">{_whole(record)}</div>'
        f'<h2 tabindex="-1">{name}</h2>{figures(_figures(record, label))}{text}'
        f'<p class="sw-links">'
        f'<a class="sw-download" data-href="{file}" download="{escape(record.path.name)}">Download</a>'
        f"<span>{escape(record.path.name)}</span></p></div>"
    )


def _whole(record: Record) -> str:
    name, file, suffix = escape(caption(record)), escape(address(record.id)), record.path.suffix.lower()
    if suffix in CLIPS:
        return f'<video controls loop playsinline preload="metadata" aria-label="{name}" data-file="{file}"></video>'
    if suffix in STILLS:
        return f'<img alt="{name}" data-file="{file}">'
    return f'<span class="sw-plain"><b>{escape(suffix.lstrip(".").upper())}</b></span>'


def pair(first: Record, second: Record) -> str:
    """Two pictures on each other behind a slider."""
    images = "".join(
        f'<img alt="{escape(caption(one))}" data-file="{escape(address(one.id))}">' for one in (first, second)
    )
    captions = "".join(
        f"<span>{escape(caption(one))}<br>{escape(_moment(one.created))}</span>" for one in (first, second)
    )
    return (
        f'<div class="sw-opened"><h2 tabindex="-1">Two results compared</h2><div class="sw-lens" data-two>{images}'
        '<input type="range" min="0" max="100" step="0.5" value="50" aria-label="How much of the first '
        'picture shows"></div>'
        f'<div class="sw-pair-names">{captions}</div></div>'
    )


def archive(path: Path, count: int, size: int) -> str:
    """The notice of a finished archive; the page's script begins its download."""
    return (
        f'<div class="sw-notice" data-kind="news" role="status"><p>{plural(count, "result")} packed, {_bytes(size)}: '
        f'<a class="sw-archive" data-href="{escape(archive_address(path))}" '
        f'download="{escape(path.name)}">{escape(path.name)}</a></p></div>'
    )


def _figures(record: Record, label: str) -> list[tuple[str, str]]:
    """Names and values of what made a result, as far as it says."""
    request = record.metadata.get("request")
    request = request if isinstance(request, Mapping) else {}
    made = record.metadata.get("figures")
    made = made if isinstance(made, Mapping) else {}
    pairs = [("Kind", kind_label(record.kind)), ("Made", _moment(record.created))]
    if record.width:
        pairs.append(("Size", f"{record.width} × {record.height}"))
    names = {
        "num_inference_steps": "Steps",
        "sampler": "Sampler",
        "schedule": "Schedule",
        "guidance": "Guidance",
        "seed": "Seed",
    }
    if request.get("start", _PLAIN_START) != _PLAIN_START:
        names["start"] = "Start"
    pairs += [(words, _value(name, request[name])) for name, words in names.items() if request.get(name) is not None]
    if isinstance(weights := made.get("quantization"), Mapping):
        said = {name: value for name, value in weights.items() if name != "model"}
        pairs.append(("Weights", _value("quantization", said)))
    if isinstance(made.get("frames"), int) and isinstance(made.get("fps"), int):
        pairs.append(("Frames", f"{made['frames']} at {made['fps']} fps"))
    if isinstance(made.get("evaluations"), (int, float)):
        pairs.append(("NFE", f"{made['evaluations']:g}"))
    if isinstance(made.get("seconds"), (int, float)):
        pairs.append(("Sampling", duration(made["seconds"])))
    return [*pairs, *([("Model", label)] if label else []), ("File", _bytes(record.size))]


def _value(field: str, value: Any) -> str:
    """A setting in words: a method by its label, with those of its settings that are said."""
    if not isinstance(value, Mapping):
        return str(value)[:60]
    key = str(value.get("key", ""))[:60]
    method = TABLES[field].get(key) if field in TABLES else None
    given = [one if not isinstance(one, float) else number(one) for name, one in value.items() if name != "key"]
    return " ".join([method.label if method else key, *(str(one) for one in given)])[:80]


def _bytes(size: int) -> str:
    return (
        f"{size / 1e9:.1f} GB"
        if size >= 1e9
        else f"{size / 1e6:.1f} MB"
        if size >= 1e6
        else f"{max(1, round(size / 1e3))} kB"
    )

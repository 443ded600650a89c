"""The gallery's own HTML: tiles, one opened result, two under a slider."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.core.types import Request
from pipelines.quantizers import QUANTIZERS
from pipelines.requests.limits import TABLES as REQUEST_TABLES
from studio.page.gallery.differences import describe_differences
from studio.results.options import KINDS
from studio.results.store import Record
from studio.ui.markup import escape, figures
from studio.ui.presentation import EVALUATIONS, format_count, format_duration, format_number
from studio.ui.results_route import build_archive_address, build_record_address

__all__ = [
    "EMPTY",
    "NOTHING_FOUND",
    "build_archive_notice",
    "build_caption",
    "build_opened",
    "build_pair",
    "build_tiles",
    "get_kind_label",
]

TABLES = {**REQUEST_TABLES, "quantization": QUANTIZERS}
_PLAIN_START = Request().start.to_json()
_MADE_HERE = Request().made_like.to_json()
_ONE_PASS = Request().second_pass.to_json()
_UNCACHED = Request().cache.to_json()
_STEERED = {"control": "ControlNet", "t2i_adapter": "T2I-Adapter", "image_prompt": "Picture as prompt"}
_UNSTEERED = Request().control.to_json()
_OWN_VAE = Request().vae.to_json()
_ONE_MODEL = Request().ensemble.to_json()
_UNSLID = Request().sliders.to_json()
_NO_STORY = Request().story.to_json()
_UNSEARCHED = Request().search.to_json()
CLIPS = frozenset({".mp4", ".webm", ".mov", ".mkv"})
STILLS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif"})

EMPTY = (
    '<div class="sw-cells-empty"><p class="sw-empty-title">Everything you generate appears here</p>'
    "<p>Generate a picture: it appears with its prompt and all its settings, to view, to compare and to "
    "generate again.</p></div>"
)
NOTHING_FOUND = (
    '<div class="sw-cells-empty"><p class="sw-empty-title">Nothing found</p>'
    "<p>No result has these words in its prompt and passes the filters. "
    "Try fewer words, all kinds or all models.</p></div>"
)


def get_kind_label(kind: str) -> str:
    """Say in words what made a result."""
    return KINDS.get(kind) or kind.replace("_", " ").capitalize() or "Result"


def build_caption(record: Record) -> str:
    """Write the prompt, or what it is where it has none: the alternative text of its picture."""
    return " ".join(record.prompt.split()) or f"{get_kind_label(record.kind)}, without a prompt"


def _format_moment(created: float) -> str:
    date = time.localtime(created)
    year = f" {date.tm_year}" if date.tm_year != time.localtime().tm_year else ""
    return f"{date.tm_mday} {time.strftime('%b', date)}{year}, {date.tm_hour:02d}:{date.tm_min:02d}"


def build_tiles(
    results: Sequence[tuple[Record, Path | None]], name: str = "", hidden: bool = False, models: Mapping[str, str] = {}
) -> str:
    """Build a grid of results, each with its small picture, if it has one.

    The page's script gives the pictures their addresses, since only the browser knows the studio's own.

    Args:
        results: results with their small pictures.
        name: of the list that they belong to.
        hidden: for a page that the script moves to the end of the list of this name.
        models: key to label of those that are here.
    """
    differences = describe_differences([record for record, _ in results], models)
    pieces = "".join(_build_tile(record, small, differences.get(record.id, "")) for record, small in results)
    return f'<ul class="sw-result-grid" data-list="{escape(name)}"{" hidden" if hidden else ""}>{pieces}</ul>'


def _build_tile(record: Record, small: Path | None, difference: str) -> str:
    name = escape(build_caption(record))
    identity = escape(record.id)
    clip = " data-clip" if record.kind == "video" else ""
    return (
        f'<li class="sw-piece" data-id="{identity}"{clip}>'
        f'<button type="button" class="sw-open" data-action="open" data-id="{identity}" '
        f'title="{name}">{_build_face(record, small)}</button>'
        f'<label class="sw-pick"><input type="checkbox" value="{identity}" aria-label="Select: {name}"></label>'
        f"{_build_star(record, name)}"
        f'<p class="sw-piece-name">{name}</p>'
        f'<p class="sw-piece-facts"><span>{escape(difference or get_kind_label(record.kind))}</span>'
        f"<span>{escape(_format_moment(record.created))}</span></p></li>"
    )


def _build_star(record: Record, name: str) -> str:
    """Build the button that marks a result as a favorite, or as none; the page's script turns it at once."""
    return (
        f'<button type="button" class="sw-star" data-action="{"unstar" if record.favorite else "star"}" '
        f'data-id="{escape(record.id)}" aria-pressed="{"true" if record.favorite else "false"}" '
        f'aria-label="Favorite: {name}" title="Favorite">'
        '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 3.2l2.7 5.6 6.1.9-4.4 4.3 1 6.1-5.4-2.9-5.4 2.9 1-6.1'
        '-4.4-4.3 6.1-.9z"/></svg></button>'
    )


def _build_face(record: Record, small: Path | None) -> str:
    name, suffix = escape(build_caption(record)), record.path.suffix.lower()
    if small is not None:
        file = build_record_address(record)
        address = file if small == record.path else f"{file}/small"
        full_size = f' data-whole="{escape(file)}"' if suffix in STILLS else ""
        return f'<img loading="lazy" decoding="async" alt="{name}" data-file="{escape(address)}"{full_size}>'
    if suffix in CLIPS:
        return (
            f'<video muted playsinline preload="metadata" aria-label="{name}" '
            f'data-file="{escape(build_record_address(record))}"></video>'
        )
    words = "cannot be shown" if suffix in STILLS else suffix.lstrip(".").upper()
    return f'<span class="sw-plain"><b>{escape(words)}</b><span class="sw-heard">{name}</span></span>'


def build_opened(record: Record, label: str) -> str:
    """Build one result: the whole picture, its settings and figures, its file to keep.

    Args:
        record: of the store.
        label: of the model that made it; "" where that is not known.
    """
    name, file = escape(build_caption(record)), escape(build_record_address(record))
    text = (
        f'<details class="sw-raw"><summary>All settings as text</summary>'
        f'<pre tabindex="0">{escape(record.parameters)}</pre></details>'
        if record.parameters
        else ""
    )
    return (
        f'<div class="sw-opened" data-id="{escape(record.id)}"><div class="sw-whole">{_build_whole(record)}</div>'
        f'<div class="sw-opened-head"><h2 tabindex="-1">{name}</h2>{_build_star(record, name)}</div>'
        f"{figures(_list_figures(record, label))}{text}"
        f'<p class="sw-links">'
        f'<a class="sw-download" data-href="{file}" download="{escape(record.path.name)}">Download</a>'
        f"<span>{escape(record.path.name)}</span></p></div>"
    )


def _build_whole(record: Record) -> str:
    name, file, suffix = escape(build_caption(record)), escape(build_record_address(record)), record.path.suffix.lower()
    if suffix in CLIPS:
        return f'<video controls loop playsinline preload="metadata" aria-label="{name}" data-file="{file}"></video>'
    if suffix in STILLS:
        return f'<img alt="{name}" data-file="{file}">'
    return f'<span class="sw-plain"><b>{escape(suffix.lstrip(".").upper())}</b></span>'


def build_pair(first: Record, second: Record) -> str:
    """Build two pictures on each other behind a slider."""
    images = "".join(
        f'<img alt="{escape(build_caption(one))}" data-file="{escape(build_record_address(one))}">'
        for one in (first, second)
    )
    captions = "".join(
        f"<span>{escape(build_caption(one))}<br>{escape(_format_moment(one.created))}</span>" for one in (first, second)
    )
    return (
        f'<div class="sw-opened"><h2 tabindex="-1">Two results compared</h2><div class="sw-lens" data-two>{images}'
        '<input type="range" min="0" max="100" step="0.5" value="50" aria-label="How much of the first '
        'picture shows"></div>'
        f'<div class="sw-pair-names">{captions}</div></div>'
    )


def build_archive_notice(path: Path, count: int, size: int) -> str:
    """Build the notice of a finished archive; the page's script begins its download."""
    return (
        '<div class="sw-notice" data-kind="news" role="status"><p>'
        f"{format_count(count, 'result')} packed, {_format_bytes(size)}: "
        f'<a class="sw-archive" data-href="{escape(build_archive_address(path))}" '
        f'download="{escape(path.name)}">{escape(path.name)}</a></p></div>'
    )


def _list_figures(record: Record, label: str) -> list[tuple[str, str]]:
    """Names and values of what made a result, as far as it says."""
    request = record.metadata.get("request")
    request = request if isinstance(request, Mapping) else {}
    figures = record.metadata.get("figures")
    figures = figures if isinstance(figures, Mapping) else {}
    pairs = [("Kind", get_kind_label(record.kind)), ("Created", _format_moment(record.created))]
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
        names["start"] = "Initialization"
    if request.get("made_like", _MADE_HERE) != _MADE_HERE:
        names["made_like"] = "Made like"
    if request.get("second_pass", _ONE_PASS) != _ONE_PASS:
        names["second_pass"] = "Second pass"
    if request.get("cache", _UNCACHED) != _UNCACHED:
        names["cache"] = "Cache"
    if request.get("vae", _OWN_VAE) != _OWN_VAE:
        names["vae"] = "VAE"
    for name, words in _STEERED.items():
        if request.get(name, _UNSTEERED) != _UNSTEERED:
            names[name] = words
    if request.get("ensemble", _ONE_MODEL) != _ONE_MODEL:
        names["ensemble"] = "Several models"
    if request.get("sliders", _UNSLID) != _UNSLID:
        names["sliders"] = "Sliders"
    if request.get("story", _NO_STORY) != _NO_STORY:
        names["story"] = "Story"
    if request.get("search", _UNSEARCHED) != _UNSEARCHED:
        names |= {"search": "Search", "reward": "Reward"}
    pairs += [
        (words, _format_setting(name, request[name])) for name, words in names.items() if request.get(name) is not None
    ]
    if isinstance(weights := figures.get("quantization"), Mapping):
        settings = {name: value for name, value in weights.items() if name != "model"}
        pairs.append(("Weights", _format_setting("quantization", settings)))
    if isinstance(figures.get("frames"), int) and isinstance(figures.get("fps"), int):
        pairs.append(("Frames", f"{figures['frames']} at {figures['fps']} fps"))
    if isinstance(figures.get("evaluations"), (int, float)):
        from_cache = ", from the cache" if figures.get("from_cache") else ""
        pairs.append((EVALUATIONS, f"{figures['evaluations']:g}{from_cache}"))
    if isinstance(figures.get("seconds"), (int, float)):
        pairs.append(("Sampling", format_duration(figures["seconds"])))
    return [*pairs, *([("Model", label)] if label else []), ("File", _format_bytes(record.size))]


def _format_setting(field: str, value: object) -> str:
    """A setting in words: a method by its label, with those of its settings that are said."""
    if not isinstance(value, Mapping):
        return str(value)[:60]
    key = str(value.get("key", ""))[:60]
    method = TABLES[field].get(key) if field in TABLES else None
    settings = [
        one if not isinstance(one, float) else format_number(one)
        for name, one in value.items()
        if name not in ("key", "picture")
    ]
    return " ".join([method.label if method else key, *(str(one) for one in settings)])[:80]


def _format_bytes(size: int) -> str:
    return (
        f"{size / 1e9:.1f} GB"
        if size >= 1e9
        else f"{size / 1e6:.1f} MB"
        if size >= 1e6
        else f"{max(1, round(size / 1e3))} kB"
    )

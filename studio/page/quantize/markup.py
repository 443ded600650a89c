"""A quantization on the page: tiles, figures, plots, what stays as it was, what cannot run here, and the game."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.quantizers import QUANTIZERS, Machine
from pipelines.workflows.compare.request import ComparisonCell, ComparisonRequest
from studio.jobs.job import Job, View
from studio.media.live_image import encode_picture_url
from studio.page.compare.grid import ComparisonGrid
from studio.page.quantize.plots import build_legend, draw_error_plot, draw_heat_maps, draw_scatter_plot
from studio.ui.example_chips import RESULTS
from studio.ui.live_routes import Parts
from studio.ui.markup import escape, prose
from studio.ui.presentation import format_count

__all__ = ["EXAMPLE", "WORDS", "QuantizationView", "build_missing_list", "take_nominal_sizes"]

EXAMPLE = RESULTS / "quantize.webp"
"""The model beside its copies as they come out: written by `python -m studio.benchmarks.examples`."""

WORDS = (
    "The same picture by the whole model and by its quantized copies",
    "The same picture in fewer bits",
    "The model runs in full precision beside its quantized copies, all from the same noise. Then the bytes of each, "
    "the time of a step and the source of the error are measured.",
)

SIMULATED = (
    "Simulated: weights and inputs are rounded and then computed in full precision. The picture is what the method "
    "would give; the size in parentheses is what its weights would take; time and memory are not measured."
)


def build_missing_list(machine: Machine) -> str:
    """List the methods that this machine cannot run, grayed, each with its reason."""
    missing = [(method.label, method.fit(machine)) for method in QUANTIZERS.values() if method.fit(machine)]
    if not missing:
        return ""
    items = "".join(
        f'<li aria-disabled="true"><span>{escape(label)}</span> <small>{prose(reason)}</small></li>'
        for label, reason in missing
    )
    return (
        '<details class="qz-missing"><summary>'
        f"{format_count(len(missing), 'method')} cannot run on this machine</summary>"
        f"<ul>{items}</ul></details>"
    )


class QuantizationView:
    """Draws one job of the task "quantize".

    Args:
        job: the job.
        address: result id to where its file is fetched, or None where it is gone.
        list_earlier: lists rows of earlier runs of the same model, which the plot of sizes shows beside.
    """

    def __init__(
        self,
        job: Job,
        address: Callable[[str], str | None],
        list_earlier: Callable[[], Sequence[Mapping[str, object]]] = tuple,
    ):
        self._list_earlier = list_earlier
        cells = (ComparisonCell({}, job.request.base, ""),) * (1 + len(job.request.variants))
        self._grid = ComparisonGrid(ComparisonRequest(job.request.base, cells), address)

    def build_parts(self, view: View, prefix: str) -> Parts:
        """Build what the page shows now: "{prefix}-grid" with its tiles, "{prefix}-figures" and "{prefix}-game"."""
        outcome = view.outcome if view.status.final else {}
        return {
            **self._grid.build_parts(view, prefix),
            f"{prefix}-figures": {"html": _build_figures(outcome, self._list_earlier() if outcome else ())},
            f"{prefix}-game": {"html": _build_game(view) if outcome else ""},
        }


def take_nominal_sizes(rows: Sequence[Mapping[str, object]]) -> list[Mapping[str, Any]]:
    """Return rows of which simulated ones have the bytes that they would take."""
    return [{**row, "bytes": row.get("nominal_bytes") or row["bytes"]} for row in rows]


def _build_figures(outcome: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]] = ()) -> str:
    rows = outcome.get("rows", ())
    if not any(row["bytes"] for row in rows):
        return ""
    scatter = draw_scatter_plot(take_nominal_sizes(rows), earlier)
    errors, maps = draw_error_plot(outcome["errors"]), draw_heat_maps(outcome)
    parts = [_build_table(rows)]
    if any(row.get("simulated") for row in rows):
        parts.append(f'<p class="sw-hint">{SIMULATED}</p>')
    if scatter or errors:
        parts.append(build_legend([row["label"] for row in rows if row["method"]]))
        parts.append('<div class="qz-plots">')
        if scatter:
            note = "Up and left is better; a larger mark is a slower step. Dashed: what nothing beats in both."
            if earlier:
                note += " Rings are your earlier runs of this model, of this picture or another: point at one."
            parts.append(_build_panel("Quality, size and speed", scatter, note))
        if errors:
            note = (
                "Solid: every network sees the full-precision run’s latents (teacher-forced): each step’s own "
                "error. Dashed: each goes its own way (free-running), so errors add up."
            )
            parts.append(_build_panel("Error by step", errors, note))
        parts.append("</div>")
    if maps:
        note = "SQNR of each layer’s output when both networks see the same latents: dark is more error."
        parts.append(_build_panel("Where the error is: layer by step", maps, note))
    parts.append(_build_skipped(outcome["skipped"]))
    return "".join(parts)


def _build_panel(title: str, inside: str, note: str) -> str:
    return f'<section class="qz-panel"><h3>{title}</h3>{inside}<p class="sw-hint">{note}</p></section>'


def _build_table(rows: Sequence[Mapping[str, object]]) -> str:
    heads: tuple[str, ...] = (
        "Weights",
        "Stored",
        "On disk",
        "Peak",
        "Step",
        "PSNR, dB",
        "SSIM",
        "Lowest weight SQNR, dB",
    )
    if not any(row["peak"] for row in rows):
        heads = tuple(head for head in heads if head != "Peak")
    lines = "".join(_build_row(row, "Peak" in heads) for row in rows)
    cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        '<div class="sw-table qz-table"><div class="sw-scroll" tabindex="0" role="region" aria-label="Figures">'
        f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div></div>"
    )


def _build_row(row: Mapping[str, Any], peak: bool) -> str:
    def format_number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    psnr = "equal" if row["identical"] else format_number(row["psnr"], ".1f")
    values = [
        f"({_format_size(row['nominal_bytes'])})" if row.get("simulated") else _format_size(row["bytes"]),
        "–" if row.get("simulated") else _format_size(row["disk"]),
        *(["–" if row.get("simulated") else _format_size(row["peak"])] if peak else []),
        f"{row['step_ratio']:.2f} ×" if row["step_ratio"] else "–",
        psnr,
        format_number(row["ssim"], ".3f"),
        format_number(row["worst_layer"], ".0f"),
    ]
    return f'<tr><th scope="row">{escape(row["label"])}</th>{"".join(f"<td>{value}</td>" for value in values)}</tr>'


def _format_size(size: float | None) -> str:
    if not size:
        return "–"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _build_skipped(layers: Sequence[Mapping[str, Any]]) -> str:
    """The skip list, the same for all methods, and what single methods leave out besides."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for layer in layers:
        groups[layer["reason"]].append(layer)
    items = "".join(
        f"<li><b>{escape(reason)}</b> <small>{escape(_shorten_names([one['name'] for one in found]))}, "
        f"{format_count(sum(one['weights'] for one in found), 'weight')}</small></li>"
        for reason, found in groups.items()
    )
    return (
        (
            f'<details class="qz-missing"><summary>{format_count(len(layers), "layer")} in full precision</summary>'
            f"<ul>{items}</ul></details>"
        )
        if layers
        else ""
    )


def _shorten_names(names: Sequence[str]) -> str:
    return (
        ", ".join(names) if len(names) <= 4 else f"{format_count(len(names), 'layer')}, from {names[0]} to {names[-1]}"
    )


def _build_game(view: View) -> str:
    """Which one is quantized? The page's script turns the pairs into a game."""
    pictures = [cell.images[0] if cell.images is not None else None for cell in view.cells]
    pairs = [
        (cell.label, encode_picture_url(picture))
        for cell, picture in zip(view.cells[1:], pictures[1:], strict=True)
        if picture is not None
    ]
    if pictures[0] is None or not pairs:
        return ""
    hidden = "".join(f'<template data-pair="{escape(label)}" data-picture="{url}"></template>' for label, url in pairs)
    return (
        f'<section class="qz-panel qz-game" data-full="{encode_picture_url(pictures[0])}">'
        f"<h3>Which one is quantized?</h3>{hidden}"
        '<p class="sw-hint">One of the two pictures comes from the full-precision model, the other from a '
        'quantized one. Can you tell?</p><div class="qz-round"></div><button type="button" '
        'class="qz-start">Play</button>'
        '<p class="qz-score" role="status"></p></section>'
    )

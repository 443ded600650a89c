"""The samplers benchmark as one JSON, a table, a plot, and a section of the docs page on samplers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.benchmarks.sampler_overhead import LIMIT
from pipelines.benchmarks.sampler_plot import plot
from pipelines.core.errors import StoreError

__all__ = ["FIGURES", "PAGE", "PLOT", "figures_json", "markdown", "marks", "name_file", "put_between", "write_report"]

ROOT = Path(__file__).resolve().parents[2]
FIGURES, PLOT, PAGE = (
    ROOT / "assets/benchmarks/samplers.json",
    ROOT / "assets/benchmarks/samplers.svg",
    ROOT / "docs/samplers.md",
)
BEGIN, END = "<!-- samplers -->", "<!-- end of samplers -->"
_FIRST = "emoji"
"""The model whose files have its name not in theirs."""
HALVED_AT = ("6", "8", "10")
STOCK = "diffusers DPM-Solver++(2M), "
DEFAULT = STOCK + "leading"
"""The spacing that `from_config` gives it with the shipped model's scheduler, which is what must be halved."""


def figures_json(
    rows: Mapping[str, Any] | None = None,
    identity: str = "",
    note: str = "",
    overhead: Mapping[str, object] | None = None,
    joins: bool = False,
    model: str = _FIRST,
) -> dict[str, Any]:
    """Return all figures as plain values; what is not given is taken from the file of the last run.

    Args:
        rows: as they were measured.
        identity: of weights and pictures.
        note: for readers.
        overhead: of the samplers.
        joins: whether the rows join those of the file, as far as these are of the same weights and pictures.
        model: whose file it is.

    Raises:
        StoreError: the file's rows are of others.
    """
    path = name_file(FIGURES, model)
    figures = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if rows is not None and joins and figures.get("rows"):
        if figures.get("identity") != identity:
            raise StoreError(
                f"{path.name} was measured with other weights or pictures: its rows and these cannot stand in one "
                "table. Measure all lines, without --only."
            )
        kept = figures["rows"]
        rows = {**kept, **{label: _join_cells(kept.get(label), row) for label, row in rows.items()}}
        note = note or figures.get("note", "")
    if rows is not None:
        figures.update(rows=rows, identity=identity, note=note, best=_find_best(rows))
        figures["halved"] = all(one["ratio"] <= 0.5 for one in figures["best"].values()) and bool(figures["best"])
    if overhead is not None:
        figures["overhead"] = overhead
    return figures


def name_file(path: Path, model: str) -> Path:
    """Return the file of a model beside that of the first one: samplers.json becomes samplers-emoji-128.json."""
    return path if model == _FIRST else path.with_stem(f"{path.stem}-{model}")


def marks(model: str) -> tuple[str, str]:
    """Return the marks of the page between which a model's section stands."""
    if model == _FIRST:
        return BEGIN, END
    return BEGIN.replace("samplers", f"samplers {model}"), END.replace("samplers", f"samplers {model}")


def _join_cells(kept: Mapping[str, Any] | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the kept cells of other numbers of evaluations."""
    return {**row, "cells": {**(kept["cells"] if kept else {}), **row["cells"]}}


def _find_best(rows: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """At 6, 8 and 10 evaluations our smallest error, and its ratio to each of diffusers' own."""
    best = {}
    for count in HALVED_AT:
        errors = {
            label: row["cells"][count]["error"]
            for label, row in rows.items()
            if count in row["cells"] and row["cells"][count]["error"] is not None
        }
        own_errors = {label: error for label, error in errors.items() if not label.startswith(STOCK)}
        if DEFAULT in errors and own_errors:
            label = min(own_errors, key=lambda name: own_errors[name])
            ratios = {
                name.removeprefix(STOCK): round(own_errors[label] / errors[name], 4)
                for name in errors
                if name.startswith(STOCK)
            }
            best[count] = {
                "label": label,
                "error": own_errors[label],
                "ratio": ratios[DEFAULT.removeprefix(STOCK)],
                "ratios": ratios,
            }
    return best


def markdown(figures: Mapping[str, Any]) -> str:
    """Write the section of the docs page: table, what was to be shown, and the samplers' own arithmetic."""
    parts = []
    if rows := figures.get("rows"):
        counts = sorted({int(count) for row in rows.values() for count in row["cells"]})
        pictures = {
            count: {row["cells"][str(count)]["pictures"] for row in rows.values() if str(count) in row["cells"]}
            for count in counts
        }
        heads = [f"{count} ({'/'.join(map(str, sorted(pictures[count])))})" for count in counts]
        parts += ["| evaluations (pictures) | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(counts)]
        parts += [_write_row(label, row, counts, rows) for label, row in rows.items()]
        parts += ["", "\n".join(f"- {said}" for said in _write_verdicts(figures))]
    if figures.get("note"):
        parts += ["", figures["note"]]
    if overhead := figures.get("overhead"):
        parts += ["", _write_overhead(overhead)]
    return "\n".join(parts).strip()


def _write_row(label: str, row: Mapping[str, Any], counts: list[int], rows: Mapping[str, Any]) -> str:
    cells = []
    for count in counts:
        cell = row["cells"].get(str(count))
        if cell is None or cell["error"] is None:
            cells.append("–" if cell is None else "not finite")
            continue
        base = rows.get(row["base"], {"cells": {}})["cells"].get(str(count))
        gain = f" ({cell['error'] / base['error'] - 1:+.0%})" if base and base["error"] else ""
        cells.append(f"{cell['error']:.3f}{gain} · {cell['adherence']:.2f}")
    return f"| {label} | " + " | ".join(cells) + " |"


def _write_verdicts(figures: Mapping[str, Any]) -> list[str]:
    sentences = []
    for count, best in figures["best"].items():
        verdict = "reached" if best["ratio"] <= 0.5 else "not reached"
        others = "".join(
            f"; {ratio:.2f} × with {name} spacing, its class's own default, which is "
            f"{'' if ratio <= 0.5 else 'not '}halved"
            for name, ratio in best["ratios"].items()
            if name != "leading"
        )
        sentences.append(
            f"At {count} evaluations the best is {best['label']} with {best['error']:.3f}: {best['ratio']:.2f} × the "
            "error of diffusers' DPM-Solver++(2M) as `from_config` makes it, with leading spacing (must be at most "
            f"0.5: {verdict})"
            f"{others}."
        )
    return sentences


def _write_overhead(overhead: Mapping[str, Any]) -> str:
    shares = {key: row["share"] for key, row in overhead["samplers"].items()}
    worst = max(shares, key=lambda key: shares[key])
    over = [f"`{key}` {share:.1%}" for key, share in shares.items() if share > LIMIT]
    end = f"; over {LIMIT:.0%}: {', '.join(over)}" if over else ""
    return (
        f"A step's own arithmetic, loop and guidance included, is {overhead['median_share']:.1%} of one guided "
        f"evaluation of the shipped model ({overhead['evaluation_ms']:.0f} ms, one picture) at the median of "
        f"the {len(shares)} samplers with one evaluation a step, and {shares[worst]:.1%} at most (`{worst}`){end}."
    )


def put_between(text: str, begin: str, end: str, inside: str) -> str:
    """Return the text with what stands between two marks replaced.

    Raises:
        StoreError: a mark is missing.
    """
    if begin not in text or end not in text:
        raise StoreError(f"The page lacks the marks {begin!r} and {end!r}. Put them where the section belongs.")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{inside}\n{end}{rest.split(end, 1)[1]}"


def write_report(figures: Mapping[str, Any], model: str = _FIRST) -> None:
    """Write the JSON, the plot and the section of the docs page.

    Args:
        figures: of `figures_json`.
        model: that they were measured on.
    """
    path = name_file(FIGURES, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    if figures.get("rows"):
        name_file(PLOT, model).write_text(plot(figures["rows"]), "utf-8")
    PAGE.write_text(put_between(PAGE.read_text("utf-8"), *marks(model), markdown(figures)), "utf-8")

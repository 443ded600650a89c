"""The samplers benchmark as one JSON, a table, a plot, and the README's section."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.benchmarks.sampler_overhead import LIMIT
from pipelines.benchmarks.sampler_plot import plot
from pipelines.core.errors import StoreError

__all__ = ["FIGURES", "PLOT", "README", "figures_json", "markdown", "put_between", "write_report"]

ROOT = Path(__file__).resolve().parents[2]
FIGURES, PLOT, README = (
    ROOT / "assets/benchmarks/samplers.json",
    ROOT / "assets/benchmarks/samplers.svg",
    ROOT / "README.md",
)
BEGIN, END = "<!-- samplers -->", "<!-- end of samplers -->"
HALVED_AT = ("6", "8", "10")
STOCK = "diffusers DPM-Solver++(2M), "
DEFAULT = STOCK + "leading"
"""The spacing that `from_config` gives it with the shipped model's scheduler, which is what must be halved."""


def figures_json(
    rows: Mapping[str, Any] | None = None, identity: str = "", note: str = "", overhead: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All figures as plain values; what is not given is taken from the file of the last run."""
    kept = json.loads(FIGURES.read_text("utf-8")) if FIGURES.is_file() else {}
    if rows is not None:
        kept.update(rows=rows, identity=identity, note=note, best=_best(rows))
        kept["halved"] = all(one["ratio"] <= 0.5 for one in kept["best"].values()) and bool(kept["best"])
    if overhead is not None:
        kept["overhead"] = overhead
    return kept


def _best(rows: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """At 6, 8 and 10 evaluations our smallest error, and its ratio to each of diffusers' own."""
    best = {}
    for count in HALVED_AT:
        errors = {
            label: row["cells"][count]["error"]
            for label, row in rows.items()
            if count in row["cells"] and row["cells"][count]["error"] is not None
        }
        ours = {label: error for label, error in errors.items() if not label.startswith(STOCK)}
        if DEFAULT in errors and ours:
            label = min(ours, key=ours.get)
            ratios = {
                name.removeprefix(STOCK): round(ours[label] / errors[name], 4)
                for name in errors
                if name.startswith(STOCK)
            }
            best[count] = {
                "label": label,
                "error": ours[label],
                "ratio": ratios[DEFAULT.removeprefix(STOCK)],
                "ratios": ratios,
            }
    return best


def markdown(figures: Mapping[str, Any]) -> str:
    """The README's section: table, what was to be shown, and the samplers' own arithmetic."""
    parts = []
    if rows := figures.get("rows"):
        counts = sorted({int(count) for row in rows.values() for count in row["cells"]})
        pictures = {
            count: {row["cells"][str(count)]["pictures"] for row in rows.values() if str(count) in row["cells"]}
            for count in counts
        }
        heads = [f"{count} ({'/'.join(map(str, sorted(pictures[count])))})" for count in counts]
        parts += ["| evaluations (pictures) | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(counts)]
        parts += [_row(label, row, counts, rows) for label, row in rows.items()]
        parts += ["", "\n".join(f"- {said}" for said in _verdicts(figures))]
    if figures.get("note"):
        parts += ["", figures["note"]]
    if overhead := figures.get("overhead"):
        parts += ["", _overhead_sentence(overhead)]
    return "\n".join(parts).strip()


def _row(label: str, row: Mapping[str, Any], counts: list[int], rows: Mapping[str, Any]) -> str:
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


def _verdicts(figures: Mapping[str, Any]) -> list[str]:
    said = []
    for count, one in figures["best"].items():
        reached = "reached" if one["ratio"] <= 0.5 else "not reached"
        others = "".join(
            f"; {ratio:.2f} × with {name} spacing, its class's own default, which is {'' if ratio <= 0.5 else 'not '}halved"
            for name, ratio in one["ratios"].items()
            if name != "leading"
        )
        said.append(
            f"At {count} evaluations the best is {one['label']} with {one['error']:.3f}: {one['ratio']:.2f} × the error of "
            f"diffusers' DPM-Solver++(2M) as `from_config` makes it, with leading spacing (must be at most 0.5: {reached})"
            f"{others}."
        )
    return said


def _overhead_sentence(overhead: Mapping[str, Any]) -> str:
    shares = {key: row["share"] for key, row in overhead["samplers"].items()}
    worst = max(shares, key=shares.get)
    over = [f"`{key}` {share:.1%}" for key, share in shares.items() if share > LIMIT]
    end = f"; over {LIMIT:.0%}: {', '.join(over)}" if over else ""
    return (
        f"A step's own arithmetic, loop and guidance included, is {overhead['median_share']:.1%} of one guided evaluation of "
        f"the shipped model ({overhead['evaluation_ms']:.0f} ms, one picture) at the median of the {len(shares)} samplers "
        f"with one evaluation a step, and {shares[worst]:.1%} at most (`{worst}`){end}."
    )


def put_between(text: str, begin: str, end: str, inside: str) -> str:
    """The text with what stands between two marks replaced.

    Raises:
        StoreError: a mark is missing.
    """
    if begin not in text or end not in text:
        raise StoreError(f"The README lacks the marks {begin!r} and {end!r}. Put them where the section belongs.")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{inside}\n{end}{rest.split(end, 1)[1]}"


def write_report(figures: Mapping[str, Any]) -> None:
    """Write the JSON, the plot and the README's section."""
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    if figures.get("rows"):
        PLOT.write_text(plot(figures["rows"]), "utf-8")
    README.write_text(put_between(README.read_text("utf-8"), BEGIN, END, markdown(figures)), "utf-8")

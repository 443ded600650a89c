"""What the benchmark of edits says to the page: of each method and each kind of edit how many pairs were right."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.benchmarks.edit_cases import Combination, Outcome, can_try
from pipelines.edits import EDITS
from pipelines.training.edits import EDIT_KINDS

__all__ = ["SUMMARY", "count_pairs", "summarize", "write_best", "write_summary"]

SUMMARY = Path(__file__).resolve().parents[2] / "assets" / "benchmarks" / "edits.json"
Measured = Mapping[Combination, Mapping[int, Outcome | None]]


def summarize(measured: Measured, kinds: Sequence[str], steps: int) -> dict[str, Any]:
    """Summarize outcomes as plain values: a line a combination, with [right, tried, dB outside the mask] by kind.

    Args:
        measured: of each combination and each case's number what came out; None where the edit refused.
        kinds: of each case, by its number.
        steps: of the schedule.
    """
    lines = []
    for one, outcomes in measured.items():
        by_kind = {}
        for kind in EDIT_KINDS:
            rows = [row for case, row in outcomes.items() if kinds[case] == kind]
            if rows and can_try(one, kind):
                right = sum(row is not None and row.is_read for row in rows)
                by_kind[kind] = [right, len(rows), _find_median([row.background for row in rows if row is not None])]
        lines.append({"edit": one.edit, "inversion": one.inversion, "guidance": one.guidance, "kinds": by_kind})
    return {"steps": steps, "lines": lines}


def _find_median(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    median = statistics.median(present) if present else math.inf
    return round(median, 1) if math.isfinite(median) else None


def count_pairs(measured: Measured) -> int:
    """Count the pairs that any method was tried on."""
    return len({case for outcomes in measured.values() for case in outcomes})


def write_best(summary: Mapping[str, Any]) -> str:
    """Write a list of what was right most often for each kind; of equals all."""
    items = []
    for kind in EDIT_KINDS:
        rows = [(line, line["kinds"][kind]) for line in summary["lines"] if kind in line["kinds"]]
        if not rows:
            continue
        most = max(right / tried for _, (right, tried, _) in rows)
        best = [(line, found) for line, found in rows if found[0] / found[1] == most]
        best.sort(key=lambda item: -item[1][1])  # the surest first
        if most == 0:
            items.append(f"- **{kind}**: no method got one of {best[0][1][1]} pairs right.")
            continue
        names = [f"{_label(line)} ({right} of {tried})" for line, (right, tried, _) in best[:3]]
        more = f", and {len(best) - 3} more" if len(best) > 3 else ""
        items.append(f"- **{kind}**: {', '.join(names)}{more}")
    return "\n".join(items)


def _label(line: Mapping[str, Any]) -> str:
    masked = ", with a mask" if EDITS[line["edit"]].build().masked else ""
    return f"{Combination(line['edit'], line['inversion'], line['guidance']).label}{masked}"


def write_summary(summary: Mapping[str, Any]) -> None:
    """Put a summary where the page reads it: a line a combination, which differences in the file show."""
    lines = ",\n".join(f"  {json.dumps(line)}" for line in summary["lines"])
    text = f'{{"steps": {summary["steps"]}, "lines": [\n{lines}\n]}}\n'
    SUMMARY.write_text(text, encoding="utf-8")

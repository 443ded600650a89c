"""What the quantization benchmark must show, and what it shows: a line for each figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["format_targets", "four_bit_gain", "on_front"]

Row = Mapping[str, Any]


def on_front(rows: Sequence[Row]) -> set[str]:
    """Labels of the rows that no other beats in both stored bytes and PSNR; simulated ones have no bytes."""
    real = [row for row in rows if not row["simulated"] and row["psnr"] is not None]
    return {
        row["label"]
        for row in real
        if not any(
            other["bytes"] <= row["bytes"]
            and other["psnr"] >= row["psnr"]
            and (other["bytes"], other["psnr"]) != (row["bytes"], row["psnr"])
            for other in real
        )
    }


def four_bit_gain(rows: Sequence[Row], name: str) -> tuple[Row, Row, float] | None:
    """The best library at four bits, ours with no more stored bytes, and by how many decibels ours is better.

    Args:
        rows: of a model.
        name: "sqnr" or "psnr".

    Returns:
        None where no library was measured, or nothing of ours is as small.
    """
    # What is no smaller than int8 leaves most of the network as it is, and would be beside eight bits.
    largest = next((row["bytes"] for row in rows if row["key"] == "int8"), float("inf"))
    libraries = [
        row for row in rows if row["library"] and row["bits"] == 4 and row["bytes"] < largest and row[name] is not None
    ]
    if not libraries:
        return None
    best = max(libraries, key=lambda row: row[name])
    ours = [
        row
        for row in rows
        if not row["library"] and not row["simulated"] and row["bytes"] <= best["bytes"] and row[name] is not None
    ]
    if not ours:
        return None
    chosen = max(ours, key=lambda row: row[name])
    return chosen, best, chosen[name] - best[name]


def _say_gain(name: str) -> Callable[[Sequence[Row]], str]:
    def say(rows: Sequence[Row]) -> str:
        found = four_bit_gain(rows, name)
        if found is None:
            return "not measured"
        ours, best, gain = found
        sizes = f"{ours['bytes'] / 1e6:.2f} and {best['bytes'] / 1e6:.2f} MB"
        return f"{gain:+.1f} dB: {ours['label']} beside {best['label']}, {sizes}"

    return say


def _find(rows: Sequence[Row], key: str) -> Row | None:
    return next((row for row in rows if row["key"] == key), None)


def _say_eight_bits(rows: Sequence[Row]) -> str:
    row = _find(rows, "onednn_w8a8")
    if row is None or row["adherence"] is None:
        return "not measured"
    return f"adherence {100 * (row['adherence'] - 1):+.1f} %, {row['psnr']:.1f} dB"


def _say_time(rows: Sequence[Row]) -> str:
    times = [
        (row["time"], row["label"]) for key in ("onednn_w8a8", "compiled_w8a8", "dynamic") if (row := _find(rows, key))
    ]
    known = [f"{label} {value:.2f} ×" for value, label in times if value is not None and math.isfinite(value)]
    return ", ".join(known) or "not measured"


def _say_mixed(rows: Sequence[Row]) -> str:
    row = next((row for row in rows if row["key"] == "calibrated" and "bits 4.0" in row["label"]), None)
    if row is None:
        return "not measured"
    verdict = "on it" if row["label"] in on_front(rows) else "not on it"
    return f"{verdict}: {row['bytes'] / 1e6:.2f} MB, {row['psnr']:.1f} dB"


def _say_larger(rows: Sequence[Row]) -> str:
    return str(sum(row["larger"] for row in rows))


def _say_report(rows: Sequence[Row]) -> str:
    over = [row["label"] for row in rows if row["report_seconds"] > row["seconds"]]
    return f"more than the quantizing in {', '.join(over)}" if over else "never"


_TARGETS: tuple[tuple[str, str, Callable[[Sequence[Row]], str]], ...] = (
    ("four bits, no more stored bytes: ours over the best library, SQNR", "≥ +3 dB", _say_gain("sqnr")),
    ("the same, PSNR", "≥ +3 dB", _say_gain("psnr")),
    ("W8A8", "adherence within 0.5 %, ≥ 35 dB", _say_eight_bits),
    ("W8A8 on this CPU, time of an evaluation ÷ full precision's", "≤ 0.70 ×", _say_time),
    ("Calibrated at an average of four bits, on the front of bytes and PSNR", "on it", _say_mixed),
    ("layers that hold more than before", "0", _say_larger),
    ("a report that costs more than the quantizing", "never", _say_report),
)


def format_targets(models: Mapping[str, Any]) -> str:
    """Write the table of what must be reached, a column a model."""
    lines = ["| figure | must reach | " + " | ".join(models) + " |", "| --- | --- |" + " --- |" * len(models)]
    for figure, must, say in _TARGETS:
        said = " | ".join(say(model["rows"]) for model in models.values())
        lines.append(f"| {figure} | {must} | {said} |")
    return "\n".join(lines)

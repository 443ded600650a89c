"""Measured numbers, their table, and the ratio of two things timed in turn."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable

__all__ = ["Figure", "format_markdown", "time_alternately"]


@dataclasses.dataclass(frozen=True)
class Figure:
    """Describes one measured number.

    Attributes:
        name: what was measured.
        value: the measurement.
        unit: "×", "ms", "s", "bytes", ...
        must: the most it may be; None where it is only reported.
        detail: how it came about.
    """

    name: str
    value: float
    unit: str
    must: float | None = None
    detail: str = ""


def time_alternately(
    first: Callable[[], float], second: Callable[[], float], rounds: int = 7
) -> tuple[float, float, float]:
    """Return (median of the pairwise ratios first / second, median first, median second), after one warm-up of each.

    Args:
        first, second: do the work and return the seconds it took.
        rounds: pairs; the order within a pair alternates.
    """
    first(), second()
    pairs = []
    for i in range(rounds):
        pair = (first(), second()) if i % 2 == 0 else (second(), first())[::-1]
        pairs.append(pair)
    return (
        statistics.median(a / b for a, b in pairs),
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
    )


def format_markdown(figures: list[Figure]) -> str:
    """Return the figures as a Markdown table for docs/benchmarks.md."""
    rows = ["| figure | must reach | measured | how |", "| --- | --- | --- | --- |"]
    for figure in figures:
        must = "reported" if figure.must is None else f"≤ {_format_number(figure.must)} {figure.unit}"
        rows.append(f"| {figure.name} | {must} | {_format_number(figure.value)} {figure.unit} | {figure.detail} |")
    return "\n".join(rows)


def _format_number(value: float) -> str:
    return f"{value:.2f}" if value != int(value) and value < 20 else f"{value:,.0f}"

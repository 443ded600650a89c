"""Time-aware beside time-blind calibration alone: the same simulated layers but for the ranges of their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.benchmarks.quantization_cells import TIME_AWARE

__all__ = ["find_pairs", "format_time_aware"]

Row = Mapping[str, Any]


def find_pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Find the rows of the free choice that differ in that alone: time-blind first, then time-aware.

    Args:
        rows: of a model.
    """
    free = [row for row in rows if row["key"] == "simulated"]

    def find(settings: Mapping[str, object]) -> Row | None:
        return next((row for row in free if row["settings"] == settings), None)

    blind = [row for row in free if not TIME_AWARE.items() <= row["settings"].items()]
    return [(row, other) for row in blind if (other := find({**row["settings"], **TIME_AWARE})) is not None]


def format_time_aware(models: Mapping[str, Any]) -> str:
    """Write the table of all pairs; empty where none was measured."""
    lines = [
        "| model | inputs | ranges | SQNR | step | PSNR | quantizing |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for key, model in models.items():
        for pair in find_pairs(model["rows"]):
            form = pair[0]["settings"].get("activations", "int8")
            lines += [
                f"| {key} | {form} | {name} | {_format(row['sqnr'])} | {_format_ends(row['forced'])} | "
                f"{_format(row['psnr'])} | {row['seconds']:.1f} s |"
                for name, row in zip(("time-blind", "time-aware"), pair, strict=True)
            ]
    return "\n".join(lines) if len(lines) > 2 else ""


def _format(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} dB"


def _format_ends(values: Sequence[float]) -> str:
    return f"{values[0]:.1f}, {values[-1]:.1f} dB" if values else "–"

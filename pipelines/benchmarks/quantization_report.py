"""The quantization benchmark as tables, plots, one JSON and a section of docs/quantization.md."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.benchmarks.quantization_plot import plot_front, plot_steps, plot_time_aware
from pipelines.benchmarks.quantization_targets import format_targets, on_front
from pipelines.benchmarks.quantization_time_aware import format_time_aware
from pipelines.benchmarks.sampler_report import put_between

__all__ = ["BEGIN", "END", "FIGURES", "PAGE", "format_section", "format_table", "summarize", "write_report"]

_ROOT = Path(__file__).resolve().parents[2]
_FOLDER = _ROOT / "assets" / "benchmarks"
FIGURES, PAGE = _FOLDER / "quantization.json", _ROOT / "docs" / "quantization.md"
FRONT, STEPS = _FOLDER / "quantization.svg", _FOLDER / "quantization-steps.svg"
TIME = _FOLDER / "quantization-time.svg"
BEGIN, END = "<!-- quantization -->", "<!-- end of quantization -->"
_HEADS = (
    *("weights", "stored", "layers", "larger", "SQNR", "PSNR", "SSIM", "adherence"),
    *("time", "calibrating", "quantizing", "peak", "pictures"),
)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _average_steps(lists: Sequence[Sequence[float]], steps: int) -> list[float]:
    """Mean over prompts by step; a step's calls of the network are averaged too."""
    if not lists:
        return []
    means = [statistics.fmean(values) for values in zip(*lists, strict=True)]
    each = max(1, len(means) // steps)
    return [round(statistics.fmean(means[start : start + each]), 2) for start in range(0, len(means), each)]


def _summarize_row(label: str, row: Mapping[str, Any], full: Mapping[str, float], steps: int) -> dict[str, Any]:
    pictures = row["prompts"]
    means = {name: _mean([one[name] for one in pictures.values()]) for name in ("psnr", "ssim", "adherence")}
    whole = _mean([full[index] for index in pictures])
    forced = _average_steps(list(row["forced"].values()), steps)
    ratio = None if not whole or means["adherence"] is None else means["adherence"] / whole
    return {
        "label": label,
        **{name: row[name] for name in ("key", "settings", "library", "bits", "simulated")},
        **row["cost"],
        "time": row.get("time"),
        "sqnr": _mean(forced),
        **means,
        "adherence": ratio,
        "psnr_least": min((one["psnr"] for one in pictures.values()), default=None),
        "pictures": len(pictures),
        "forced": forced,
        "free": _average_steps([one["free"] for one in pictures.values()], steps),
    }


def summarize(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce what was measured prompt by prompt to means, as the page and its JSON hold them.

    Args:
        figures: of `quantization.Kept`.
    """
    models = {}
    for key, model in figures["models"].items():
        rows = [
            _summarize_row(label, row, model["full"], figures["steps"])
            for label, row in model["rows"].items()
            if row["prompts"] and "cost" in row
        ]
        models[key] = {"adherence": _mean(list(model["full"].values())), "rows": rows}
        models[key]["left_out"] = model.get("left_out", {})
    return {**{name: figures[name] for name in ("steps", "versions", "missing")}, "models": models}


def _format(value: float | None, form: str, unit: str = "") -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{format(value, form)}{unit}"


def format_table(model: Mapping[str, Any]) -> str:
    """Write a model's table; what lies on the front of bytes and PSNR is bold."""
    front = on_front(model["rows"])
    lines = ["| " + " | ".join(_HEADS) + " |", "| --- |" + " ---: |" * (len(_HEADS) - 1)]
    for row in model["rows"]:
        name = f"**{row['label']}**" if row["label"] in front else row["label"]
        cells = [
            f"({row['nominal_bytes'] / 1e6:.2f} MB)" if row["simulated"] else f"{row['bytes'] / 1e6:.2f} MB",
            str(row["layers"]),
            str(row["larger"]),
            _format(row["sqnr"], ".1f", " dB"),
            _format(row["psnr"], ".1f", " dB"),
            _format(row["ssim"], ".3f"),
            _format(row["adherence"], ".3f"),
            "–" if row["simulated"] else _format(row["time"], ".2f", " ×"),
            _format(row.get("calibration_seconds"), ".1f", " s"),
            _format(row["seconds"], ".1f", " s"),
            _format(row["peak"] / 1e6, ".0f", " MB"),
            str(row["pictures"]),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def format_section(figures: Mapping[str, Any]) -> str:
    """Write the section of the page: what must be reached, tables, plots, and what was not measured."""
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    counts = sorted({row["pictures"] for model in figures["models"].values() for row in model["rows"]})
    pictures = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0]) if counts else "0"
    parts = [
        f"Prompts: {pictures}; steps: {figures['steps']}; one thread; {versions}.",
        format_targets(figures["models"]),
    ]
    for key, model in figures["models"].items():
        whole = model["rows"][0]["full_bytes"] / 1e6 if model["rows"] else 0.0
        parts += [
            f"### {key}",
            f"In full precision: {whole:.2f} MB, adherence {_format(model['adherence'], '.3f')}.",
            format_table(model),
        ]
    parts += [
        "### Bytes against PSNR, and the error by step",
        "![Stored bytes against PSNR](../assets/benchmarks/quantization.svg)",
        "![SQNR by step](../assets/benchmarks/quantization-steps.svg)",
    ]
    if table := format_time_aware(figures["models"]):
        parts += [
            "### Time-aware beside time-blind calibration",
            "The same simulated layers, but for the ranges of their inputs: one for all steps, or one for each of "
            "eight intervals of steps. Both learn from the same runs. *Step* is the SQNR on the full "
            "run's latents at the first and the last step.",
            table,
            "![SQNR by step, time-aware and time-blind](../assets/benchmarks/quantization-time.svg)",
        ]
    if missing := figures["missing"]:
        parts.append("Not measured: " + "; ".join(f"{label} ({reason})" for label, reason in missing.items()) + ".")
    left_out = {said for model in figures["models"].values() for said in model["left_out"].values()}
    if left_out:
        parts.append("Left out: " + " ".join(sorted(left_out)))
    return "\n\n".join(parts)


def write_report(figures: Mapping[str, Any]) -> None:
    """Write the JSON, the plots and the section of the docs page; a model that was not measured keeps its figures."""
    kept = json.loads(FIGURES.read_text("utf-8"))["models"] if FIGURES.is_file() else {}
    figures = {**figures, "models": {**kept, **figures["models"]}}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    FRONT.write_text(plot_front(figures["models"]), "utf-8")
    STEPS.write_text(plot_steps(figures["models"]), "utf-8")
    if format_time_aware(figures["models"]):
        TIME.write_text(plot_time_aware(figures["models"]), "utf-8")
    PAGE.write_text(put_between(PAGE.read_text("utf-8"), BEGIN, END, "\n" + format_section(figures) + "\n"), "utf-8")

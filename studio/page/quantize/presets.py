"""Presets of the Quantize tab: choices that the quantization benchmark measured, for the model that is chosen."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.benchmarks.quantization_report import FIGURES
from pipelines.core.types import Choice
from pipelines.quantizers import QUANTIZERS, Machine

__all__ = ["PRESETS", "Preset", "choose_preset", "read_measured"]

PRESETS = {"same": "Smallest that looks the same", "fastest": "Fastest here", "four": "4-bit"}
"""Key to the words on the button."""

LOOKS_SAME = {"psnr": 34.0, "ssim": 0.98}
"""From which means on two pictures are taken to look the same."""

LEAST_PSNR = 30.0
"""Of the fastest, whose pictures may differ a little."""

_NETWORKS = {"sd": "emoji-128", "sdxl": "emoji-128", "sd3": "emoji-128-flow", "flux": "emoji-128-flow"}
"""Families to the shipped model whose figures stand for them: a U-Net or a transformer."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """Holds what a preset sets.

    Attributes:
        choice: the quantizer with its settings.
        sentence: what was measured, for the person.
    """

    choice: Choice
    sentence: str


@functools.cache
def read_measured() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Read the benchmark's rows by model; none where it was never run."""
    if not FIGURES.is_file():
        return {}
    models = json.loads(FIGURES.read_text("utf-8"))["models"]
    return {key: model["rows"] for key, model in models.items()}


def choose_preset(
    key: str, family: str, machine: Machine, measured: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Preset | None:
    """Choose by the figures of the shipped model with the same kind of network, or of another where that has none.

    Args:
        key: of PRESETS.
        family: of the chosen model, as the catalog has it.
        machine: what is chosen must run here.
        measured: rows by model, as `read_measured` gives them.

    Returns:
        None where nothing that was measured can run here. The sentence names another preset that chooses the same.
    """
    nearest = _NETWORKS.get(family, "emoji-128-flow")
    model = next((one for one in (nearest, *measured) if measured.get(one)), nearest)
    rows = [
        row
        for row in measured.get(model, ())
        if not row["simulated"] and row["key"] in QUANTIZERS and not QUANTIZERS[row["key"]].fit(machine)
    ]
    found = {"same": _find_smallest(rows), "fastest": _find_fastest(rows), "four": _find_four_bits(rows)}
    row = found[key]
    if row is None:
        return None
    alike = [f"“{PRESETS[other]}”" for other, one in found.items() if other != key and one is row]
    also = f" Here {' and '.join(alike)} is the same choice." if alike else ""
    return Preset(Choice(row["key"], row["settings"]), _describe(row, model) + also)


def _find_smallest(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    same = [row for row in rows if all(row[name] >= least for name, least in LOOKS_SAME.items())]
    return min(same, key=lambda row: row["bytes"], default=None)


def _find_fastest(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    close = [row for row in rows if row["time"] and row["psnr"] >= LEAST_PSNR]
    return min(close, key=lambda row: row["time"], default=None)


def _find_four_bits(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The best picture in no more bytes than int4 takes."""
    plain = next((row for row in rows if row["key"] == "int4"), None)
    small = [row for row in rows if plain and row["bytes"] <= plain["bytes"]]
    return max(small, key=lambda row: row["psnr"], default=None)


def _describe(row: Mapping[str, Any], model: str) -> str:
    parts = [f"{100 * row['bytes'] / row['full_bytes']:.0f} % of the bytes"]
    parts += [f"{row['time']:.2f} × the time of a step"] if row["time"] else []
    parts.append(f"PSNR {row['psnr']:.1f} dB")
    return f"{row['label']}. Measured on {model}, {row['pictures']} pictures: {', '.join(parts)}."

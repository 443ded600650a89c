"""What is found out about the cells of a quantization comparison, and the same as plain values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipelines.core.errors import StepwiseError
from pipelines.core.loop import Run
from pipelines.core.types import Choice, Request
from pipelines.families.base import Family
from pipelines.quantizers import QUANTIZERS, Quantizer
from pipelines.quantizers.base import Report, sqnr
from studio.jobs.job import Cell

__all__ = ["Variant", "build_outcome"]


@dataclasses.dataclass(eq=False)
class Variant:
    """Describes one cell: the full-precision model (without a choice) or a quantized one, and all that is found out
    about it.

    Attributes:
        label, key: of the model.
        choice: of the quantizer; None in full precision.
        is_loaded: whether `family` is set.
        family: the model, once it is loaded.
        quantizer: that made it, of a quantized one.
        report: on what it did.
        run: through the loop, once it is built.
        picture: (H, W, 3), uint8, once it is finished.
        problem: why the variant was left out.
        denoised: the estimates of x0, a step each.
        forced: SQNR of the estimate by step in decibels, at full precision's latents.
        layers: SQNR of the layers by step in decibels.
        figures: by name.
    """

    label: str
    key: str
    choice: Choice | None = None
    is_loaded: bool = False
    quantizer: Quantizer = dataclasses.field(init=False, repr=False)
    family: Family = dataclasses.field(init=False, repr=False)
    report: Report | None = None
    run: Run = dataclasses.field(init=False, repr=False)
    picture: np.ndarray | None = None
    problem: StepwiseError | None = None
    denoised: list[torch.Tensor] = dataclasses.field(default_factory=list)
    forced: list[float] = dataclasses.field(default_factory=list)
    layers: list[tuple[float, ...]] = dataclasses.field(default_factory=list)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


def build_outcome(
    base: Request, label: str, variants: Sequence[Variant], cells: Sequence[Cell], layer_names: Sequence[str]
) -> dict[str, Any]:
    """Build the comparison as plain values: a row a cell, errors by step, heat maps, and what stays in full
    precision."""
    measured = [variant for variant in variants[1:] if variant.forced]
    reports = [variant.report for variant in variants if variant.report]
    skipped = {layer.name: layer for report in reports for layer in report.skipped}
    return {
        "prompt": base.prompt,
        "seed": base.seed,
        "model": base.model,
        "label": label,
        "steps": base.num_inference_steps,
        "rows": [_build_row(index, variant, cells[index]) for index, variant in enumerate(variants)],
        "errors": [
            {
                "label": variant.label,
                "forced": _round_finite(variant.forced),
                "free": _round_finite(_compute_free_errors(variants[0], variant)),
            }
            for variant in measured
        ],
        "heat": [
            {"label": variant.label, "steps": [_round_finite(layers) for layers in variant.layers]}
            for variant in measured
        ],
        "layers": list(layer_names),
        "skipped": [dataclasses.asdict(layer) for layer in skipped.values()],
        "methods": {variant.label: QUANTIZERS[variant.choice.key].help for variant in variants if variant.choice},
    }


def _compute_free_errors(full: Variant, variant: Variant) -> list[float]:
    pairs = zip(full.denoised, variant.denoised, strict=False)
    return [sqnr(reference, denoised) for reference, denoised in pairs]


def _build_row(index: int, variant: Variant, cell: Cell) -> dict[str, Any]:
    decibels = variant.figures.get("psnr")
    worst = min((layer.sqnr for layer in variant.report.quantized_layers), default=None) if variant.report else None
    names = ("bytes", "share", "disk", "peak", "ssim")
    is_simulated = variant.report is not None and variant.report.nominal_bytes is not None
    # A simulation's time says nothing of the method's.
    timings = {} if is_simulated else {name: variant.figures.get(name) for name in ("step_seconds", "step_ratio")}
    return {
        "cell": index + 1,
        "label": variant.label,
        "key": variant.key,
        "method": variant.choice.to_json() if variant.choice else None,
        **{name: variant.figures.get(name) for name in names},
        **{name: timings.get(name) for name in ("step_seconds", "step_ratio")},
        "psnr": decibels if decibels is not None and math.isfinite(decibels) else None,
        "identical": decibels == math.inf,
        "kept": bool(variant.figures.get("kept")),
        "simulated": is_simulated,
        "nominal_bytes": variant.report.nominal_bytes if variant.report else None,
        "layers": len(variant.report.quantized_layers) if variant.report else 0,
        "worst_layer": worst,
        "result": cell.results[0] if cell.results else None,
        "problem": str(variant.problem) if variant.problem else "",
    }


def _round_finite(values: Sequence[float]) -> list[float | None]:
    return [round(value, 2) if math.isfinite(value) else None for value in values]

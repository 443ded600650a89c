"""`python -m pipelines.benchmark edits --pie-bench FOLDER`: methods on a person's copy of PIE-Bench."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from PIL import Image

from pipelines.benchmarks.edit_cases import Combination, run_edit
from pipelines.benchmarks.pie_bench import SIDE, Sample, read_pie_bench
from pipelines.benchmarks.pie_bench_metrics import (
    COLUMNS,
    PUBLISHED,
    PieJudges,
    PieMetrics,
    average,
    load_judges,
    measure_edit,
)
from pipelines.core.errors import MethodFitError, PromptError
from pipelines.core.types import Choice, Request
from pipelines.edits import EDITS
from pipelines.families.latent import LatentFamily
from pipelines.inversions import INVERSIONS
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.loader import Loader
from pipelines.workflows.edit.request import EditRequest, Picture

__all__ = ["METHODS", "SEED", "build_pie_request", "main", "write_pie_table"]

SEED = 1234
METHODS = (
    *(("refine", key) for key in ("ddim", "null_text", "negative_prompt", "direct", "cycle", "dual", "ddpm")),
    ("plug_and_play", "direct"),
    ("masactrl", "direct"),
    ("infedit", "direct"),
    ("flow_edit", "direct"),
    ("reprompt", "rf"),
)
"""Edits and inversions that are tried, as far as they fit the model: those of the published rows, and a few beside."""
_MEMORY = 2**36
_CROSS, _SELF = 0.4, 0.6
"""Shares of the steps in which prompt-to-prompt shares its maps, as in the published rows."""


def build_pie_request(sample: Sample, one: Combination, steps: int, side: int) -> EditRequest:
    """Build the edit of a sample.

    Prompt-to-prompt refines and, where the benchmark names the words that change, weighs the new one twice and keeps
    the edit to where they look, as the published rows do.

    Args:
        sample: with its prompts.
        one: the methods and the guidance scale.
        steps: of the schedule.
        side: pixels that the model draws.
    """
    base = Request(
        prompt=sample.target_prompt,
        num_inference_steps=steps,
        width=side,
        height=side,
        seed=SEED,
        guidance=Choice("cfg", {"guidance_scale": one.guidance}),
    )
    edit = Choice(one.edit)
    if one.edit == "refine":
        edit = Choice("refine", {"cross_until": _CROSS, "self_until": _SELF})
        if len(sample.blended) == 2:
            words = {"words": f"{sample.blended[1]}=2", "blend": ", ".join(sample.blended)}
            edit = Choice("reweight", {**edit.settings, **words})
    return EditRequest(base, Picture(sample.picture), None, sample.source_prompt, Choice(one.inversion), edit)


def write_pie_table(measured: Mapping[str, Sequence[PieMetrics]], missing: Sequence[str] = ()) -> str:
    """Write our rows, and the published ones under them, marked as their authors'.

    Args:
        measured: of each method its samples' figures.
        missing: sentences on what could not be judged.
    """
    heads = [heading for _, heading, _ in COLUMNS]
    lines = ["| method | samples | " + " | ".join(heads) + " |", "| --- " + "| ---: " * (len(heads) + 1) + "|"]
    for label, rows in measured.items():
        lines.append(f"| {label} | {len(rows)} | {_format_cells(average(rows))} |")
    for label, values in PUBLISHED:
        lines.append(f"| *{label} (its authors' figures)* | 700 | {_format_cells(values)} |")
    return "\n".join([*lines, "", *missing]) if missing else "\n".join(lines)


def _format_cells(values: Sequence[float]) -> str:
    return " | ".join(
        "–" if math.isnan(value) else "exact" if math.isinf(value) else f"{value:.2f}" for value in values
    )


def main(options: argparse.Namespace) -> str:
    """Measure, and return the table.

    Args:
        options: of `pipelines.benchmarks.edits.build_parser`.
    """
    judges = load_judges(options.models, options.device)
    loader = Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(options.models), device=options.device)
    measured: dict[str, list[PieMetrics]] = {}
    with loader.model(options.model) as family:
        if not isinstance(family, LatentFamily):
            raise MethodFitError(f"The model {options.model!r} has no single network. Choose another.")
        chosen = list(_choose(family, options))
        side = options.side or min(SIDE, *family.default_size)
        for sample in islice(read_pie_bench(options.pie_bench), options.pairs):
            for one in chosen:
                request = build_pie_request(sample, one, options.steps, side)
                if (metrics := _measure(family, judges, sample, request)) is not None:
                    measured.setdefault(f"{one.label}, guidance {one.guidance:g}", []).append(metrics)
    return write_pie_table(measured, judges.missing)


def _choose(family: LatentFamily, options: argparse.Namespace) -> Iterator[Combination]:
    for scale in options.scales:
        for edit, inversion in METHODS:
            inverts = EDITS[edit].build().inverts
            fits = not EDITS[edit].fit(family.traits) and not (inverts and INVERSIONS[inversion].fit(family.traits))
            wanted = not options.only or (edit in options.only and (not inverts or inversion in options.only))
            if fits and wanted:
                yield Combination(edit, inversion, scale)


def _measure(family: LatentFamily, judges: PieJudges, sample: Sample, request: EditRequest) -> PieMetrics | None:
    """The figures of an edit; one that can't weigh the words is refined, one that can't be aligned left out."""
    try:
        picture = run_edit(family, request).picture
    except PromptError:
        if request.edit.key != "reweight":
            return None
        kept = {name: request.edit.settings[name] for name in ("cross_until", "self_until")}
        return _measure(family, judges, sample, dataclasses.replace(request, edit=Choice("refine", kept)))
    if picture.shape[:2] != (SIDE, SIDE):
        picture = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    return measure_edit(picture, sample, judges)

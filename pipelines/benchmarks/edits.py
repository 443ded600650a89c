"""`python -m pipelines.benchmark edits`: every inversion with every edit, on pairs whose true result is known.

The pairs are drawn by the generator of the shipped model's data: a picture, what is to change, and the true picture in
which all else is equal. Nothing is masked but for inpainting, which gets the true mask.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path

import torch

from pipelines.benchmarks.edit_cases import (
    INVERTING,
    Combination,
    Judges,
    Outcome,
    can_try,
    combinations,
    measure,
)
from pipelines.benchmarks.edit_summary import count_pairs, summarize, write_best, write_summary
from pipelines.core.errors import MethodFitError, ModelMissingError, SettingsError
from pipelines.emoji.objects import shipped_catalog
from pipelines.families.latent import LatentFamily
from pipelines.metrics.classifier import load_classifier
from pipelines.metrics.detector import load_detector
from pipelines.metrics.lpips import Lpips, load_lpips
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped, shipped_128, shipped_flow
from pipelines.models.loader import Loader
from pipelines.training.edits import EDIT_KINDS, edit_pairs, render_edit

__all__ = ["OutcomeFile", "main", "write_table"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "edits.md"
FIRST_SEED = 47
_MEMORY = 2**31
_SHIPPED = [shipped(), shipped_128(), shipped_flow()]
Measured = Mapping[Combination, Mapping[int, Outcome | None]]
"""Of each combination and each case's number what came out; None where the edit refused."""
_COLUMNS: tuple[tuple[str, Callable[[Outcome], float | None], str], ...] = (
    ("outside, dB", lambda row: row.background, ".1f"),
    ("to the truth, dB", lambda row: row.truth, ".1f"),
    ("SSIM", lambda row: row.likeness, ".2f"),
    ("LPIPS", lambda row: row.lpips, ".2f"),
    ("structure × 10³", lambda row: 1000 * row.structure, ".1f"),
    ("reconstruction, dB", lambda row: row.reconstruction, ".1f"),
    ("reconstruction SSIM", lambda row: row.reconstruction_ssim, ".3f"),
    ("NFE", lambda row: row.nfe, ".0f"),
    ("seconds", lambda row: row.seconds, ".2f"),
    ("peak, MB", lambda row: row.peak / 1e6, ".0f"),
)


class OutcomeFile:
    """Keeps outcomes in a file of JSON lines, so that a stopped measurement goes on where it was.

    Args:
        path: read if it is there; each outcome is appended as it is known. None keeps them in memory alone.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.outcomes: dict[Combination, dict[int, Outcome | None]] = {}
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                one, case, values = json.loads(line)
                self._put(Combination(*one), case, None if values is None else Outcome(**values))

    def add(self, one: Combination, case: int, outcome: Outcome | None) -> None:
        """Keep the outcome of a combination on the pair of this number."""
        self._put(one, case, outcome)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([astuple(one), case, outcome and asdict(outcome)]) + "\n")

    def has(self, one: Combination, case: int) -> bool:
        """Say whether the outcome is known."""
        return case in self.outcomes.get(one, {})

    def _put(self, one: Combination, case: int, outcome: Outcome | None) -> None:
        self.outcomes.setdefault(one, {})[case] = outcome


def write_table(measured: Measured, kinds: Sequence[str]) -> str:
    """Write the table, a line a combination, the most often right first.

    Args:
        measured: a case that a combination refused counts as wrong.
        kinds: of each case, by its number.
    """
    columns = [column for column in _COLUMNS if _has_any(measured, column[1])]
    shown = [kind for kind in EDIT_KINDS if kind in kinds]
    names = " | ".join([*shown, "all", *(name for name, _, _ in columns)])
    lines = [
        f"| method | guidance | pairs | {names} |",
        "| --- " + "| ---: " * (len(shown) + len(columns) + 3) + "|",
    ]

    def share(one: Combination, kind: str | None = None) -> float:
        cases = [case for case in measured[one] if kind in (None, kinds[case])]
        right = [outcome.is_read for case in cases if (outcome := measured[one][case]) is not None]
        return sum(right) / len(cases) if cases else 0.0

    for one in sorted(measured, key=share, reverse=True):
        rows = [row for row in measured[one].values() if row is not None]
        values = [f"{share(one, kind):.2f}" if can_try(one, kind) else "–" for kind in shown]
        values += [f"**{share(one):.2f}**"]
        values += [_format_median([read(row) for row in rows], form) for _, read, form in columns]
        lines.append(f"| {one.label} | {one.guidance:g} | {len(measured[one])} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def _has_any(measured: Measured, read: Callable[[Outcome], float | None]) -> bool:
    rows = [row for outcomes in measured.values() for row in outcomes.values() if row is not None]
    return any(read(row) is not None for row in rows)


def _format_median(values: Sequence[float | None], form: str) -> str:
    present = [value for value in values if value is not None]
    if not present:
        return "–"
    median = statistics.median(present)
    return format(median, form) if math.isfinite(median) else "exact"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command's flags."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark edits", description=__doc__)
    parser.add_argument("--pairs", type=int, default=207, help=f"in turn of the kinds {', '.join(EDIT_KINDS)}")
    parser.add_argument("--cases", metavar="FROM:TO", help="of the pairs these only, so that many go in parts")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="of outcomes; what it holds is not measured again")
    parser.add_argument("--kinds", nargs="+", choices=EDIT_KINDS, default=EDIT_KINDS, help="pairs of these kinds only")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--scales", type=float, nargs="+", default=[4.0], help="guidance scales of the edit")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="edits and inversions of these keys only")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where the weights of LPIPS are, if any")
    parser.add_argument(
        "--minutes", type=float, help="stop after so many, at the end of a pair; 0 measures nothing and only writes"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--pie-bench", type=Path, metavar="FOLDER", help="your copy of PIE-Bench instead of the pairs")
    parser.add_argument("--model", default="emoji", help="a shipped model; of PIE-Bench, one of the models folder")
    parser.add_argument(
        "--side", type=int, help="of PIE-Bench, pixels that the model draws (default: its own, up to 512)"
    )
    parser.add_argument("--device", default="cpu", help="of PIE-Bench")
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/edits.md, and what the page's goals follow"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and put it into the page of docs/ if asked; returns the exit status."""
    options = build_parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.pie_bench is not None:
        from pipelines.benchmarks import pie_bench_run  # late: it imports what only PIE-Bench needs

        print(pie_bench_run.main(options))
        return 0
    if options.write and options.model != "emoji":
        raise SettingsError("The page's table is that of the model emoji. Leave --write out, or --model.")
    kept = OutcomeFile(options.keep)
    kinds = [EDIT_KINDS[case % len(EDIT_KINDS)] for case in range(options.pairs)]
    for text in _measure_all(options, kept, kinds):
        print(text, file=sys.stderr, flush=True)
    table = write_table(kept.outcomes, kinds)
    print(table)
    if options.write:
        summary = summarize(kept.outcomes, kinds, options.steps)
        write_summary(summary)
        _write_section(table, write_best(summary), count_pairs(kept.outcomes), options.steps)
    return 0


def _measure_all(options: argparse.Namespace, kept: OutcomeFile, kinds: Sequence[str]) -> Iterator[str]:
    """Measure what isn't known yet, case by case; yield progress as text."""
    objects = shipped_catalog()
    pairs = edit_pairs(objects, options.pairs, FIRST_SEED)
    judges = Judges(load_classifier(), load_detector(), _load_lpips(options.models))
    loader = Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=_SHIPPED), device="cpu")
    with loader.model(options.model) as family:
        if not isinstance(family, LatentFamily):
            raise MethodFitError("The shipped model has no single network.")
        fitting = combinations(options.scales, family.traits)
        chosen = [one for one in fitting if not options.only or _is_chosen(one, options.only)]
        start = time.monotonic()
        for case in _read_cases(options.cases, options.pairs):
            if options.minutes is not None and time.monotonic() - start >= 60 * options.minutes:
                return
            if kinds[case] not in options.kinds:
                continue
            pictures = render_edit(pairs[case], objects, family.default_size[0])
            for one in chosen:
                if can_try(one, kinds[case]) and not kept.has(one, case):
                    kept.add(one, case, measure(family, judges, pairs[case], pictures, one, options.steps))
            yield f"{case + 1} of {len(pairs)} pairs"


def _read_cases(text: str | None, count: int) -> range:
    """The numbers of FROM:TO, the end excluded, as Python's slices count.

    Raises:
        SettingsError: it is something else.
    """
    if text is None:
        return range(count)
    try:
        start, end = (int(part) if part else None for part in text.split(":"))
    except ValueError:
        raise SettingsError(f"The cases are {text[:40]!r}. Give FROM:TO, e.g. 0:50.") from None
    return range(count)[start:end]


def _load_lpips(models: Path) -> Lpips | None:
    """The metric, where its weights are."""
    try:
        return load_lpips(models)
    except ModelMissingError:
        return None


def _is_chosen(one: Combination, keys: Sequence[str]) -> bool:
    return one.edit in keys and (one.edit not in INVERTING or one.inversion in keys)


def _write_section(table: str, best: str, pairs: int, steps: int) -> None:
    """Put the table, and which methods were right most often, between their marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split("<!-- edits -->")
    after = rest.split("<!-- end of edits -->")[1]
    note = f"Up to {pairs} pairs a method, {steps} steps, medians but for the shares. Right most often:"
    section = f"<!-- edits -->\n{note}\n\n{best}\n\n{table}\n<!-- end of edits -->"
    PAGE.write_text(before + section + after, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

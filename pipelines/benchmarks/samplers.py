"""`python -m pipelines.benchmark samplers`: every sampler against a 999-step reference, on a shipped model."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.benchmarks.sampler_baseline import stock_dpm_solver
from pipelines.benchmarks.sampler_overhead import overheads
from pipelines.benchmarks.sampler_report import figures_json, markdown, write_report
from pipelines.benchmarks.sampler_runs import BASE, MODELS, PICTURES, Bench, open_bench
from pipelines.core.errors import StepwiseError
from pipelines.core.types import Choice, Request, Traits
from pipelines.learning.problem import relative_error
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned_file import METHODS, SHIPPED, find_all

__all__ = ["EVALUATIONS", "Line", "lines", "main"]

EVALUATIONS = (4, 6, 8, 10, 15, 20, 50)
LONG = 50
"""From here on `--long-pictures` counts."""

RESEARCH = (6, 10, 20)
"""Where a method that changes another, and a further setting or schedule of a sampler, is measured."""

CHAINS = (20, 50)
"""Where Denoising MCMC is measured: its draft and its chain alone cost 14 evaluations."""

UNMEASURED = {"uniform", "learned", "hand_typed"}
"""Schedules without a line of 2M: what it stands on, what has lines of its own, and what is anybody's list."""

SAME = {"euler": "ddim", "dpmpp_1": "ddim", "lml": "dpmpp_2m"}
"""Samplers whose update is another's with these settings (tests prove it), so their figures are the same."""


@dataclasses.dataclass(frozen=True)
class Line:
    """Describes one row of the table.

    Attributes:
        label: what a reader sees.
        request: sampler, schedule and start; its steps are set for each number of evaluations.
        base: label of the line that this method changes, to be compared with.
        evaluations: where it is measured.
        stock: the spacing of diffusers' own DPM-Solver++(2M), which runs in its place; None for our samplers.
    """

    label: str
    request: Request = BASE
    base: str = ""
    evaluations: tuple[int, ...] = EVALUATIONS
    stock: str | None = None
    fitted: str = ""
    """Names what was fitted, of a learned line: with another fit its kept cells are others'."""
    fitted_steps: tuple[int, ...] = ()
    """Of a learned line: its steps at each of its `evaluations`, more where a solver leaves branches out."""


def _build_line(
    label: str,
    sampler: str,
    settings: Mapping[str, object] | None = None,
    schedule: str = "uniform",
    base: str = "",
    **more: Any,
) -> Line:
    """A line for a change of a base or of a setting; the table's samplers on their defaults need none."""
    if (base or settings or schedule != "uniform") and "evaluations" not in more:
        more["evaluations"] = RESEARCH
    request = BASE.replace(
        sampler=Choice(sampler, settings or {}),
        schedule=Choice(schedule, more.pop("of_schedule", {})),
        start=Choice(more.pop("start", "noise")),
    )
    return Line(label, request, base, **more)


def lines(traits: Traits, model: str = MODELS[0]) -> list[Line]:
    """Return all rows: diffusers' default, the samplers' defaults, chosen settings and schedules, learned ones.

    Args:
        traits: of the model.
        model: its key.
    """
    label = {method.key: method.label for method in SAMPLERS.fitting(traits)}
    changes = {"epsilon_scaling": label["ddim"], "time_shift": label["ddim"], "dualfast": label["dpmpp_2m"]}
    rows = [Line(f"diffusers DPM-Solver++(2M), {spacing}", stock=spacing) for spacing in ("linspace", "leading")]
    rows += [_build_line(label[key], key, base=changes.get(key, "")) for key in label if key not in SAME]
    rows += [
        _build_line("UniPC, order 1", "unipc", {"order": 1}),
        _build_line("DEIS, order 1", "deis", {"order": 1}),
        _build_line("UniPC, order 3", "unipc", {"order": 3}),
        _build_line("DEIS, order 3", "deis", {"order": 3}),
        _build_line("LMS, order 2", "lms", {"order": 2}),
        _build_line("SA-Solver, tau 0", "sa_solver", {"tau": 0.0}),
        *(
            _build_line(f"{label[key]}, karras schedule", key, schedule="karras", base=label[key])
            for key in ("pndm", "ipndm", "heun", "lms", "dpm2")
        ),
        _build_line("LML, kappa 0.5", "lml", {"kappa": 0.5}, base=label["dpmpp_2m"]),
        _build_line("Time-Shift on PNDM", "time_shift", {"base": "pndm"}, base=label["pndm"]),
        _build_line("Time-Shift on 2M", "time_shift", {"base": "dpmpp_2m"}, base=label["dpmpp_2m"]),
        _build_line("DualFast on DDIM", "dualfast", {"base": "ddim"}, base=label["ddim"]),
        _build_line("DualFast on UniPC", "dualfast", {"base": "unipc"}, base=label["unipc"]),
        _build_line("Epsilon scaling, linear", "epsilon_scaling", {"slope": 0.01}, base=label["ddim"]),
        _build_line("Epsilon scaling on 2M", "epsilon_scaling", {"base": "dpmpp_2m"}, base=label["dpmpp_2m"]),
        _build_line("2M, Gaussian-analytic start", "dpmpp_2m", start="gaussian", base=label["dpmpp_2m"]),
        _build_line("2M, short diffusion time", "dpmpp_2m", start="short_time", base=label["dpmpp_2m"]),
        _build_line("2M, optimal-transport start", "dpmpp_2m", start="optimal_transport", base=label["dpmpp_2m"]),
        _build_line("2M, Denoising MCMC", "dpmpp_2m", start="mcmc", base=label["dpmpp_2m"], evaluations=CHAINS),
    ]
    for schedule in sorted({one.key for one in SCHEDULES.fitting(traits)} - UNMEASURED):
        rows.append(
            _build_line(
                f"2M, {schedule.replace('_', ' ')} schedule", "dpmpp_2m", schedule=schedule, base=label["dpmpp_2m"]
            )
        )
    rows += _build_learned_lines(label, model)
    return [dataclasses.replace(row, request=row.request.replace(model=model)) for row in rows]


def _build_learned_lines(label: Mapping[str, str], model: str) -> list[Line]:
    groups: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    digest = hashlib.sha256()
    for learned in find_all(SHIPPED).values():
        if learned.model == model and learned.sampler.key in label:
            digest.update(
                repr((learned.times, learned.model_times, learned.rows, learned.prompt_extrapolation)).encode()
            )
            options = ["single ends"] * bool(learned.single) + ["emphasis"] * bool(learned.prompt_extrapolation)
            name = METHODS[learned.method] + " with " * bool(options) + " and ".join(options)
            group = (name, learned.method, json.dumps(learned.sampler.to_json()))
            groups.setdefault(group, []).append((learned.evaluations, learned.num_inference_steps))
    rows = []
    for (name, method, sampler), counts in groups.items():
        settings = json.loads(sampler)
        key = settings.pop("key")
        base = ", ".join([label[key], *(f"{setting} {value}" for setting, value in settings.items())])
        evaluations, steps = zip(*sorted(counts), strict=True)
        rows.append(
            _build_line(
                f"{name} on {base}",
                key,
                settings,
                "learned",
                label[key],
                of_schedule={"method": method},
                evaluations=evaluations,
                fitted=f"-{digest.hexdigest()[:8]}",
                fitted_steps=steps,
            )
        )
    return rows


def steps_for(choice: Choice, evaluations: int) -> int:
    """Find the most steps that cost no more than this; 0 where one step costs more."""
    sampler, steps = SAMPLERS.build(choice), evaluations
    while steps and sampler.nfe(steps) > evaluations:
        steps -= 1
    return steps


def steps_after(request: Request, evaluations: int, bench: Bench) -> int:
    """Find `steps_for` a run with a start that has evaluations of its own or skips steps, on the first picture."""
    most_steps, first = 0, bench.first(1)
    for steps in range(1, 3 * evaluations + 1):
        if first.run_and_count(request.replace(num_inference_steps=steps))[1] > evaluations:
            break
        most_steps = steps
    return most_steps


def measure(line: Line, evaluations: int, bench: Bench, reference: torch.Tensor) -> dict[str, Any] | None:
    """Measure one cell: error, adherence and what it cost; None where not one step fits."""
    if line.stock:
        latents, steps, cost = stock_dpm_solver(bench, evaluations, line.stock), evaluations, float(evaluations)
    else:
        if not (steps := _count_steps(line, evaluations, bench)):
            return None
        latents, cost = bench.run_and_count(line.request.replace(num_inference_steps=steps))
    finite = bool(latents.isfinite().all())
    return {
        "steps": steps,
        "evaluations": round(cost, 2),
        "pictures": len(latents),
        "error": relative_error(latents, reference) if finite else None,
        "adherence": bench.adherence(latents) if finite else None,
    }


def _count_steps(line: Line, evaluations: int, bench: Bench) -> int:
    if line.fitted_steps:
        return line.fitted_steps[line.evaluations.index(evaluations)]
    plain = line.request.start == BASE.start
    return steps_for(line.request.sampler, evaluations) if plain else steps_after(line.request, evaluations, bench)


class _CellCache:
    """Cells that were measured before with the same weights, pictures and settings, one file each."""

    def __init__(self, folder: Path, identity: str):
        self.folder, self.identity = folder / identity, identity
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, line: Line, evaluations: int, pictures: int, make: Callable[[], dict | None]) -> dict | None:
        """The cell, made and written unless it is there."""
        slug = "".join(one if one.isalnum() else "-" for one in line.label.lower())
        path = self.folder / f"{slug}{line.fitted}-{evaluations}-{pictures}.json"
        if path.is_file():
            return json.loads(path.read_text("utf-8"))
        cell = make()
        path.write_text(json.dumps(cell), "utf-8")
        return cell


def table(
    bench: Bench, folder: Path, pictures: Mapping[int, int], only: Sequence[str] = ()
) -> Iterator[tuple[Line, int, dict | None]]:
    """Measure every cell, the fewest evaluations first.

    Args:
        bench: with as many pictures as any number of evaluations needs.
        folder: where the reference and finished cells are kept, so that a stopped run goes on.
        pictures: how many of them, by number of evaluations.
        only: parts of the labels of the lines that are wanted; empty for all.
    """
    cache, broken = _CellCache(folder, bench.identity), set()
    offered = lines(bench.family.traits, bench.model)
    selected = [line for line in offered if not only or any(part in line.label for part in only)]
    for evaluations, count in pictures.items():
        smaller = bench.first(count)
        reference = smaller.reference(folder)
        for line in selected:
            if evaluations not in line.evaluations or line.label in broken:
                continue
            make = functools.partial(measure, line, evaluations, smaller, reference)
            try:
                yield line, evaluations, cache.get(line, evaluations, count, make)
            except StepwiseError as error:
                broken.add(line.label)
                print(f"left out: {line.label}: {error}", file=sys.stderr)


def _parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark samplers", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="default: %(default)s")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="prompts of every line (default: %(default)s)")
    parser.add_argument("--long-pictures", type=int, help=f"prompts from {LONG} evaluations on (default: as many)")
    parser.add_argument("--evaluations", type=int, nargs="+", default=EVALUATIONS, choices=EVALUATIONS)
    only = "lines whose label holds one of these; with --write they join the kept ones"
    parser.add_argument("--only", nargs="+", default=(), metavar="TEXT", help=only)
    keep = (
        "folder of the reference and of finished cells, so that a stopped run goes on; empty it after a change of the "
    )
    parser.add_argument("--keep", type=Path, help=f"{keep}code that it measures (default: nothing is kept)")
    parser.add_argument("--overhead", action="store_true", help="measure the samplers' own arithmetic instead")
    parser.add_argument("--note", default="", help="a sentence for readers, below the table")
    parser.add_argument(
        "--write", action="store_true", help="write the figures, the plot and the model's section of docs/samplers.md"
    )
    return parser.parse_args()


def main() -> int:
    """Measure and print; the exit status says whether the best combination halves diffusers' error at 6, 8 and 10."""
    flags = _parse_flags()
    torch.set_num_threads(1)
    many = {
        count: flags.pictures if count < LONG else flags.long_pictures or flags.pictures for count in flags.evaluations
    }
    with open_bench(max(many.values()), flags.model) as bench, tempfile.TemporaryDirectory() as passing:
        if flags.overhead:
            figures = figures_json(overhead=overheads(bench), model=flags.model)
        else:
            cells: dict[str, dict] = {}
            for line, count, cell in table(bench, flags.keep or Path(passing), many, flags.only):
                row = cells.setdefault(line.label, {"base": line.base, "cells": {}})
                if cell is not None:
                    row["cells"][str(count)] = cell
                    print(
                        f"{line.label:<42}{count:>4}  {cell['error'] or 0:8.4f}  {cell['adherence'] or 0:6.3f}",
                        flush=True,
                    )
            figures = figures_json(cells, bench.identity, flags.note, joins=bool(flags.only), model=flags.model)
    print(markdown(figures))
    if flags.write:
        write_report(figures, flags.model)
    return int(not figures.get("halved", True))


if __name__ == "__main__":
    sys.exit(main())

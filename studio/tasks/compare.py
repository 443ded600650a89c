"""The task behind the Compare tab, the /compare endpoint and `python -m studio compare`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.choice_text import parse_axis, parse_cell
from studio.exports.pictures import PICTURES, write_picture
from studio.tasks.entry import Command, Endpoint, build_prompt_argument

if TYPE_CHECKING:
    from pipelines.workflows.compare.request import ComparisonRequest
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext

__all__ = ["Compare"]

_EXAMPLE = {"equal": "steps", "reference": True, "reference_steps": 2}


class CompareCommand(Command):
    """Defines `python -m studio compare`."""

    name, help = "compare", "one prompt and one noise, several settings"
    out = "a .png, .jpg or .webp (labeled picture) or .csv file"
    suffixes = (*PICTURES, ".csv")

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--cell",
            action="append",
            default=[],
            metavar="FIELD=VALUE;...",
            help="one cell's settings, e.g. 'sampler=ddim,eta=0.5;num_inference_steps=10'; repeat for more",
        )
        parser.add_argument(
            "--x", metavar="FIELD=V1|V2|...", help="columns of a grid, e.g. 'num_inference_steps=5|10|20'"
        )
        parser.add_argument("--y", metavar="FIELD=V1|V2|...", help="rows of a grid")
        parser.add_argument("--equal", choices=("steps", "nfe"), default="steps", help="what the cells have in common")
        parser.add_argument("--reference-steps", type=int, default=100, help="steps of the reference run; 0 for none")

    def values(self, flags: argparse.Namespace, base: Mapping[str, object]) -> dict[str, Any]:
        from pipelines.requests.prompts import split_prompts  # late: see `Task`

        axes = {
            name: parse_axis(text, split_prompts) for name in ("x", "y") if (text := getattr(flags, name)) is not None
        }
        reference = {"reference_steps": flags.reference_steps} if flags.reference_steps > 0 else {}
        return {
            "base": dict(base),
            "cells": [parse_cell(cell) for cell in flags.cell],
            "equal": flags.equal,
            "reference": bool(reference),
            **reference,
            **axes,
        }

    def write(self, job: Job, flags: argparse.Namespace, context: TaskContext) -> Iterator[Path]:
        from studio.exports.comparison import draw_comparison, write_csv  # late: see `Task`

        if flags.out.suffix.lower() == ".csv":
            flags.out.write_text(write_csv(job), encoding="utf-8")
        else:
            write_picture(draw_comparison(job), flags.out)
        yield flags.out


class Compare:
    """Run the cells of a comparison, those of one model together, then measure them against long runs."""

    key = "compare"
    command = CompareCommand()
    endpoint = Endpoint(
        "compare",
        "Run one prompt from one noise in several cells; streams progress, then returns pictures and figures.",
        '{"base": fields of a request, "cells": [fields that differ, ...], "equal": "steps" or "nfe", '
        '"reference_steps": 100}, or "x" and "y" axes {"field": ..., "values": [...]} instead of cells.',
        (build_prompt_argument("for every cell that does not set its own."),),
        examples=(
            {**_EXAMPLE, "cells": [{"sampler": "heun"}, {"guidance.guidance_scale": 2}]},
            {
                **_EXAMPLE,
                "x": {"field": "num_inference_steps", "values": "1, 2"},
                "y": {"field": "sampler", "values": ["ddim", "heun"]},
            },
        ),
    )

    def parse(self, values: Mapping[str, object], context: TaskContext) -> ComparisonRequest:
        from studio.tasks.runs import compare  # late: see `Task`

        return compare.parse(values, context)

    def work(self, request: ComparisonRequest) -> tuple[float, float]:
        steps = sum(cell.request.num_inference_steps for cell in request.cells)
        return steps + request.reference * request.reference_steps, 0

    def run(self, request: ComparisonRequest, job: Job, context: TaskContext) -> None:
        from studio.tasks.runs import compare  # late: see `Task`

        compare.run(request, job, context)

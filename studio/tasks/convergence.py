"""The task behind the convergence view, the /convergence endpoint and `python -m studio convergence`."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.tasks.entry import Command, Endpoint, build_prompt_argument

if TYPE_CHECKING:
    from pipelines.workflows.convergence import ConvergenceRequest
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext

__all__ = ["Convergence", "describe_left_out"]

_PARTS = ("network", "own", "preview", "decode")
"""Of a run's time."""


class ConvergenceCommand(Command):
    """Defines `python -m studio convergence`."""

    name, help, out = "convergence", "measure samplers' errors to a long run", "a .csv file"

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--samplers", default="all", metavar="KEYS", help="e.g. 'ddim, unipc', 'all first order' or all (default)"
        )
        parser.add_argument(
            "--evaluations", metavar="NUMBERS", help="budgets, every guidance branch counted, e.g. '8, 10-50:10'"
        )
        parser.add_argument("--reference-steps", type=int, help="of the long run, 20 to 999")

    def values(self, flags: argparse.Namespace, base: Mapping[str, object]) -> dict[str, Any]:
        options = {name: getattr(flags, name) for name in ("samplers", "evaluations", "reference_steps")}
        return {"base": dict(base), **{name: value for name, value in options.items() if value is not None}}

    def write(self, job: Job, flags: argparse.Namespace, context: TaskContext) -> Iterator[Path]:
        outcome = job.view().outcome
        if sentence := describe_left_out(outcome):
            print(sentence, file=sys.stderr)
        with flags.out.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["sampler", "evaluations", "steps", "relative_error", *(f"{name}_s" for name in _PARTS)])
            for point in outcome["points"]:
                seconds = [f"{point['seconds'][name]:.6f}" for name in _PARTS]
                writer.writerow(
                    [point["label"], point["evaluations"], point["steps"], f"{point['error']:.6g}", *seconds]
                )
        yield flags.out


class Convergence:
    """Measure samplers against a long run from the same noise, budget by budget; every point shows as it comes."""

    key = "convergence"
    command = ConvergenceCommand()
    endpoint = Endpoint(
        "convergence",
        "Measure samplers' errors to a long run from the same noise; streams progress, then returns the points.",
        '{"samplers": ["ddim", "unipc"] or "all first order", "evaluations": [8, 16, 32] or "8, 10-50:10", '
        '"reference_steps": 20 to 999, "base": other fields of a request}.',
        (build_prompt_argument("of all runs."),),
        examples=({"samplers": ["ddim"], "evaluations": [2, 4], "reference_steps": 20},),
        overrules=frozenset({"batch_size"}),
    )

    def parse(self, values: Mapping[str, object], context: TaskContext) -> ConvergenceRequest:
        from studio.tasks.runs import convergence  # late: see `Task`

        return convergence.parse(values, context)

    def work(self, request: ConvergenceRequest) -> tuple[float, float]:
        return request.reference_steps + len(request.samplers) * sum(request.evaluations), 0

    def run(self, request: ConvergenceRequest, job: Job, context: TaskContext) -> None:
        from studio.tasks.runs import convergence  # late: see `Task`

        convergence.run(request, job, context)


def describe_left_out(outcome: Mapping[str, Any]) -> str:
    """Say which planned points the schedule does not serve, and why the first; empty where it serves all."""
    steps: dict[str, list[int]] = {}
    for point in outcome.get("left_out", ()):
        steps.setdefault(point["label"], []).append(point["steps"])
    if not steps:
        return ""
    skipped = "; ".join(
        f"{label} at {', '.join(map(str, counts))} step{'s' * (counts != [1])}" for label, counts in steps.items()
    )
    return f"Skipped, because the schedule does not support them: {skipped}. {outcome['left_out'][0]['reason']}"

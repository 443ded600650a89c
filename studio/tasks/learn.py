"""The task behind the fitting of schedules: on the page, the /learn endpoint and `python -m studio learn`."""

from __future__ import annotations

import math
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.choice_text import parse_choice, plain
from pipelines.core.errors import SettingsError
from studio.tasks.entry import Command, Endpoint
from studio.tasks.schedules_folder import get_schedules_folder

if TYPE_CHECKING:
    from pipelines.learning.request import LearnRequest
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext

__all__ = ["Learn"]


class LearnCommand(Command):
    """Defines `python -m studio learn`: the schedule is kept in the models folder and found by the schedule
    "learned"."""

    name, help = "learn", "fit a schedule to a model, a sampler and a number of steps"
    out = "also copy the schedule here, a .json file"
    takes_request, needs_out = False, False

    def add_flags(self, parser: ArgumentParser) -> None:
        parser.add_argument("--model", help="key of the catalog (default: the shipped model)")
        parser.add_argument(
            "--sampler", metavar="KEY[,SETTING=VALUE...]", help="e.g. unipc,order=3 (default: the studio's)"
        )
        parser.add_argument("--guidance", metavar="KEY[,SETTING=VALUE...]", help="e.g. cfg,guidance_scale=4")
        parser.add_argument("--steps", type=int, required=True, help="of the sampler")
        parser.add_argument(
            "--learner",
            default="ld3",
            metavar="KEY[,SETTING=VALUE...]",
            help="ld3 (default), bespoke, auto_diffusion or q_sched, e.g. ld3,rounds=100,batch=4",
        )
        parser.add_argument(
            "--pictures",
            action="append",
            default=[],
            metavar="SETTING=VALUE",
            help="fitted, held_out, teacher_steps or seed, e.g. fitted=32; repeat for more",
        )
        parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with a prompt a line")

    def values(self, flags: Namespace, base: Mapping[str, object]) -> dict[str, Any]:
        run: dict[str, Any] = {"num_inference_steps": flags.steps, **({"model": flags.model} if flags.model else {})}
        run |= {name: parse_choice(text) for name in ("sampler", "guidance") if (text := getattr(flags, name))}
        pictures = {}
        for pair in flags.pictures:
            name, equals, value = pair.partition("=")
            if not equals:
                raise SettingsError(f"{pair!r} has no value. Write --pictures {pair}=NUMBER.")
            pictures[name] = plain(value)
        prompts = flags.prompts.read_text("utf-8") if flags.prompts else ""
        return {"base": run, "learner": parse_choice(flags.learner), "pictures": pictures, "prompts": prompts}

    def write(self, job: Job, flags: Namespace, context: TaskContext) -> Iterator[Path]:
        outcome = job.view().outcome
        if "name" not in outcome:
            return
        held_out = outcome["schedule"]["held_out"]
        errors = f"Error on held-out pictures: {held_out['fitted']:.4f}; uniform: {held_out['uniform']:.4f}"
        print(errors, file=sys.stderr)
        path = get_schedules_folder(context) / f"{outcome['name']}.json"
        if flags.out:
            shutil.copyfile(path, flags.out)
        yield from filter(None, (path, flags.out))


class Learn:
    """Fit a schedule to a model, a sampler and a number of steps; every round shows as it comes."""

    key = "learn"
    command = LearnCommand()
    endpoint = Endpoint(
        "learn",
        'Fit a schedule; streams progress, then returns its name, its times and its loss curve in "outcome".',
        '{"base": {"model", "sampler", "guidance", "num_inference_steps", ...}, "learner": "ld3" or '
        '{"key": "auto_diffusion", ...}, "pictures": {"fitted": 16, ...}, "prompts": ["...", ...]}.',
        examples=(
            {
                "learner": {"key": "bespoke", "tries": 0},
                "pictures": {"fitted": 2, "held_out": 2, "teacher_steps": 10, "seed": 0},
                "prompts": ["a fox on a blue background"],
            },
        ),
        overrules=frozenset({"prompt", "batch_size", "loras", "variation_seed", "variation_strength"}),
    )

    def parse(self, values: Mapping[str, object], context: TaskContext) -> LearnRequest:
        from studio.tasks.runs import learn  # late: see `Task`

        return learn.parse(values, context)

    def work(self, request: LearnRequest) -> tuple[float, float]:
        return math.inf, 0  # a fit goes on for as long as it may

    def run(self, request: LearnRequest, job: Job, context: TaskContext) -> None:
        from studio.tasks.runs import learn  # late: see `Task`

        learn.run(request, job, context)

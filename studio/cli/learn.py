"""`python -m studio learn`: fit a schedule from the command line."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.choice_text import parse_choice, plain
from pipelines.core.errors import SettingsError
from studio.cli.requests import follow

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["add_learn", "learn_values", "run_learn"]


def add_learn(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("learn", help="fit a schedule to a model, a sampler and a number of steps")
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
        help="ld3 (default), bespoke or auto_diffusion, e.g. ld3,rounds=100,batch=4",
    )
    parser.add_argument(
        "--pictures",
        action="append",
        default=[],
        metavar="SETTING=VALUE",
        help="fitted, held_out, teacher_steps or seed, e.g. fitted=32; repeat for more",
    )
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with a prompt a line")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also copy the schedule here, a .json file")


def learn_values(flags: argparse.Namespace) -> dict[str, Any]:
    """The plain values of the task "learn" that the flags gave; the named file is read.

    Raises:
        SettingsError: a setting without a value.
    """
    base: dict[str, Any] = {"num_inference_steps": flags.steps}
    if flags.model:
        base["model"] = flags.model
    for name in ("sampler", "guidance"):
        if getattr(flags, name):
            base[name] = parse_choice(getattr(flags, name))
    pictures = {}
    for pair in flags.pictures:
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"{pair!r} has no value. Write --pictures {pair}=NUMBER.")
        pictures[name] = plain(value)
    prompts = flags.prompts.read_text("utf-8") if flags.prompts else ""
    return {"base": base, "learner": parse_choice(flags.learner), "pictures": pictures, "prompts": prompts}


def run_learn(studio: Studio, flags: argparse.Namespace) -> list[Path]:
    """Fit it; the schedule is kept in the models folder and found by the schedule "learned"."""
    from studio.tasks.learn import schedules_folder

    view = follow(studio.submit("learn", learn_values(flags)), sys.stderr)
    if "name" not in view.outcome:
        return []
    held_out = view.outcome["schedule"]["held_out"]
    print(
        f"Error on pictures not fitted: {held_out['fitted']:.4f}; uniform: {held_out['uniform']:.4f}", file=sys.stderr
    )
    path = schedules_folder(studio) / f"{view.outcome['name']}.json"
    if flags.out:
        shutil.copyfile(path, flags.out)
        return [path, flags.out]
    return [path]

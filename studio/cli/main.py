"""The same requests from the command line: `python -m studio generate|compare|edit|animate|gallery|models ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import StepwiseError
from pipelines.models.folder_lists import more_model_folders
from studio.cli.listings import LISTINGS, add_listings
from studio.cli.requests import add_request, follow, request_values
from studio.exports.pictures import require_suffix
from studio.jobs.threads import let_threads_sleep

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.tasks.base import Task

__all__ = ["main"]

Run = Callable[["Studio", argparse.Namespace], Iterable[object]]
"""Does what a command asks for, and gives what to print, a line each."""


def _tasks() -> Mapping[str, Task]:
    """Command to its task."""
    # Late: with the tasks PyTorch is imported, and its threads read the environment only then.
    from studio.tasks import TASKS

    return {task.command.name: task for task in TASKS.values() if task.command}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studio", description="Stepwise from the command line.")
    parser.add_argument("--outputs-folder", type=Path, help="where results are kept")
    parser.add_argument("--models-folder", type=Path, help="where models are kept")
    parser.add_argument(
        "--more-models", type=Path, action="append", default=[], help="a further folder of models, or a list of such"
    )
    parser.add_argument("--follow-links", action="store_true", help="follow links that lead out of the models folders")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for task in _tasks().values():
        _add_task(commands, task)
    add_listings(commands)
    commands.add_parser("methods", help="print the tables of methods")
    return parser


def _add_task(commands: Any, task: Task) -> None:
    command = task.command
    parser = commands.add_parser(command.name, help=command.help)
    if command.takes_request:
        add_request(parser)
    command.add_flags(parser)
    parser.add_argument("--out", type=Path, required=command.needs_out, metavar="FILE", help=command.out)


def _run_task(task: Task, studio: Studio, flags: argparse.Namespace) -> Iterable[object]:
    command = task.command
    if command.suffixes:
        require_suffix(flags.out, command.suffixes)
    values = command.values(flags, request_values(flags) if command.takes_request else {})
    job = studio.submit(task.key, values)
    follow(job, sys.stderr)
    yield from command.write(job, flags, studio)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 after one sentence on what is wrong."""
    let_threads_sleep()
    flags = _parser().parse_args(arguments)
    if flags.command == "methods":
        from studio.cli.methods import method_tables  # late: all methods are imported for it

        print(method_tables())
        return 0
    from studio.backend import Studio, StudioSettings  # late: see `_tasks`

    try:
        more = more_model_folders(flags.more_models)
        studio = Studio(
            StudioSettings(
                outputs=flags.outputs_folder,
                models=flags.models_folder,
                more_models=more,
                follow_links=flags.follow_links,
            )
        )
        try:
            for line in _command(flags.command)(studio, flags):
                print(line)
        finally:
            studio.close()
    except (StepwiseError, OSError) as error:
        print(f"studio: {error}", file=sys.stderr)
        return 2
    return 0


def _command(name: str) -> Run:
    if name in LISTINGS:
        return LISTINGS[name]
    task = _tasks()[name]
    return lambda studio, flags: _run_task(task, studio, flags)

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
from studio.cli.requests import add_request, follow, read_request_values
from studio.exports.pictures import require_suffix, require_writable
from studio.jobs.threads import let_threads_sleep
from studio.tasks import TASKS
from studio.tasks.seeds import draw_omitted_seeds

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.tasks.base import Task
    from studio.tasks.entry import Command

__all__ = ["main"]

Run = Callable[["Studio", argparse.Namespace], Iterable[object]]
"""Does what a command asks for, and gives what to print, a line each."""


_TASKS: Mapping[str, Task] = {task.command.name: task for task in TASKS.values() if task.command}
"""Command to its task."""


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studio", description="Stepwise from the command line.")
    parser.add_argument("--outputs-folder", type=Path, help="where results are kept")
    parser.add_argument("--models-folder", type=Path, help="where models are kept")
    parser.add_argument(
        "--more-models", type=Path, action="append", default=[], help="a further folder of models, or a list of such"
    )
    parser.add_argument("--follow-links", action="store_true", help="follow links that lead out of the models folders")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for task in _TASKS.values():
        _add_task(commands, task)
    add_listings(commands)
    methods = commands.add_parser("methods", help="print the tables of methods, or the keys and settings of one kind")
    methods.add_argument("kind", nargs="?", help="e.g. sampler, cache, guidance, search or edit: its keys and settings")
    return parser


def _require_command(task: Task) -> Command:
    if task.command is None:
        raise StepwiseError(f"The task {task.key} has no command.")
    return task.command


def _add_task(commands: Any, task: Task) -> None:
    command = _require_command(task)
    parser = commands.add_parser(command.name, help=command.help)
    if command.takes_request:
        add_request(parser, command.needs_prompt)
    command.add_flags(parser)
    parser.add_argument("--out", type=Path, required=command.needs_out, metavar="FILE", help=command.out)


def _run_task(task: Task, studio: Studio, flags: argparse.Namespace) -> Iterable[object]:
    command = _require_command(task)
    if command.suffixes:
        require_suffix(flags.out, command.suffixes)
    if flags.out is not None:
        require_writable(flags.out)
    values = command.values(flags, read_request_values(flags) if command.takes_request else {})
    seeded = draw_omitted_seeds(task, values)
    job = studio.submit(task.key, seeded)
    seed, drawn = (one.get("base", one).get("seed") for one in (values, seeded))
    if drawn != seed:
        print(f"Drawn at random: --seed {drawn}", file=sys.stderr)
    follow(job, sys.stderr)
    yield from command.write(job, flags, studio)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 after one sentence on what is wrong."""
    let_threads_sleep()
    flags = _build_parser().parse_args(arguments)
    if flags.command == "methods":
        return _print_methods(flags.kind)
    from studio.backend import Studio, StudioSettings  # late: its threads read the environment at the import

    try:
        more_folders = more_model_folders(flags.more_models)
        studio = Studio(
            StudioSettings(
                outputs=flags.outputs_folder,
                models=flags.models_folder,
                more_models=more_folders,
                follow_links=flags.follow_links,
            )
        )
        try:
            for line in _choose_run(flags.command)(studio, flags):
                print(line)
        finally:
            studio.close()
    except OSError as error:
        words = f"{error.filename} cannot be read or written ({error.strerror})." if error.filename else str(error)
        print(f"studio: {words}", file=sys.stderr)
        return 2
    except StepwiseError as error:
        print(f"studio: {error}", file=sys.stderr)
        return 2
    return 0


def _print_methods(kind: str | None) -> int:
    from studio.cli.methods import build_method_tables, list_keys  # late: all methods are imported for it

    try:
        print("\n".join(list_keys(kind)) if kind else build_method_tables())
    except StepwiseError as error:
        print(f"studio: {error}", file=sys.stderr)
        return 2
    return 0


def _choose_run(name: str) -> Run:
    if name in LISTINGS:
        return LISTINGS[name]
    task = _TASKS[name]
    return lambda studio, flags: _run_task(task, studio, flags)

"""The same requests from the command line: `python -m studio generate|compare|edit|animate|gallery|models ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.choice_text import parse_choice, plain
from pipelines.core.errors import SettingsError, StepwiseError
from pipelines.core.types import METHODS
from studio.cli.animate import add_animate, animate
from studio.cli.convergence import add_convergence, run_convergence
from studio.cli.learn import add_learn, run_learn
from studio.cli.listings import SHELVES, add_shelves
from studio.cli.pictures import require_suffix, write_picture, write_result
from studio.cli.quantize import add_quantize, quantize
from studio.cli.requests import add_request, follow, request_values
from studio.jobs.threads import let_threads_sleep

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["compare_values", "main", "method_tables"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studio", description="Stepwise from the command line.")
    parser.add_argument("--outputs-folder", type=Path, help="where results are kept")
    parser.add_argument("--models-folder", type=Path, help="where models are kept")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    generate = commands.add_parser("generate", help="make pictures from a prompt")
    add_request(generate)
    generate.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a .png, .jpg or .webp file; a batch adds -1, -2, ..."
    )
    compare = commands.add_parser("compare", help="one prompt and one noise, several settings")
    add_request(compare)
    compare.add_argument(
        "--cell",
        action="append",
        default=[],
        metavar="FIELD=VALUE;...",
        help="one cell's settings, e.g. 'sampler=ddim,eta=0.5;num_inference_steps=10'; repeat for more",
    )
    compare.add_argument("--x", metavar="FIELD=V1|V2|...", help="columns of a grid, e.g. 'num_inference_steps=5|10|20'")
    compare.add_argument("--y", metavar="FIELD=V1|V2|...", help="rows of a grid")
    compare.add_argument("--equal", choices=("steps", "nfe"), default="steps", help="what the cells have in common")
    compare.add_argument("--reference-steps", type=int, default=100, help="steps of the reference run; 0 for none")
    compare.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a .png, .jpg or .webp (labeled picture) or .csv file"
    )
    edit = commands.add_parser("edit", help="change a picture")
    add_request(edit)
    _add_edit(edit)
    add_animate(commands, add_request)
    add_quantize(commands, add_request)
    add_convergence(commands, add_request)
    add_learn(commands)
    add_shelves(commands)
    commands.add_parser("methods", help="print the tables of methods")
    return parser


def _add_edit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--picture", type=Path, required=True, metavar="FILE", help="the source")
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="a picture of the source's size, white where it may change"
    )
    parser.add_argument("--source-prompt", default="", help="what the source shows")
    parser.add_argument(
        "--edit",
        default="image_to_image",
        metavar="KEY[,SETTING=VALUE...]",
        help="e.g. inpaint, or replace,cross_until=0.4",
    )
    parser.add_argument("--inversion", default="direct", metavar="KEY[,SETTING=VALUE...]", help="e.g. edict,p=0.93")
    parser.add_argument("--fit", choices=("crop", "resize"), default="crop", help="for a picture of other proportions")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .png, .jpg or .webp file")


def _field(name: str, text: str) -> Any:
    return parse_choice(text) if name in METHODS else plain(text)


def _cell(text: str) -> dict[str, Any]:
    cell = {}
    for pair in filter(None, (one.strip() for one in text.split(";"))):
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"The cell {pair!r} has no value. Write FIELD=VALUE;FIELD=VALUE.")
        cell[name.strip()] = _field(name.strip(), value)
    return cell


def _axis(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    name, equals, values = text.partition("=")
    if not equals:
        raise SettingsError(f"The axis {text!r} has no values. Write FIELD=V1|V2|V3.")
    return {"field": name.strip(), "values": [_field(name.strip(), value) for value in values.split("|")]}


def compare_values(flags: argparse.Namespace) -> dict[str, Any]:
    """The plain values of the task "compare" that the flags gave."""
    values = {
        "base": request_values(flags),
        "cells": [_cell(cell) for cell in flags.cell],
        "equal": flags.equal,
        "reference": flags.reference_steps > 0,
    }
    if flags.reference_steps > 0:
        values["reference_steps"] = flags.reference_steps
    axes = {name: axis for name in ("x", "y") if (axis := _axis(getattr(flags, name))) is not None}
    return {**values, **axes}


def edit_values(flags: argparse.Namespace) -> dict[str, Any]:
    """The plain values of the task "edit" that the flags gave; the named files are read."""
    files = {
        name: getattr(flags, name).read_bytes() for name in ("picture", "mask") if getattr(flags, name) is not None
    }
    return {
        "base": request_values(flags),
        **files,
        "source_prompt": flags.source_prompt,
        "edit": parse_choice(flags.edit),
        "inversion": parse_choice(flags.inversion),
        "fit": flags.fit,
    }


def method_tables() -> str:
    """The tables of methods as Markdown, for the README."""
    from pipelines.edits import EDITS
    from pipelines.guidance import GUIDANCE
    from pipelines.initializations import INITIALIZATIONS
    from pipelines.inversions import INVERSIONS
    from pipelines.quantizers import QUANTIZERS
    from pipelines.samplers import SAMPLERS
    from pipelines.schedules import SCHEDULES
    from pipelines.workflows.video import VIDEOS

    parts = []
    for table in (SAMPLERS, SCHEDULES, INITIALIZATIONS, GUIDANCE, INVERSIONS, EDITS, VIDEOS, QUANTIZERS):
        parts += [f"| {table.kind} | key | what it is for | source |", "| --- | --- | --- | --- |"]
        parts += [f"| {one.label} | `{one.key}` | {one.help} | {one.paper} |" for one in table.values()]
        parts += ["", *order_rows(), ""] if table is SAMPLERS else [""]
    return "\n".join(parts).rstrip()


def order_rows() -> list[str]:
    """The Markdown table of the deterministic samplers' orders of convergence, in theory and as measured."""
    from pipelines.benchmarks.orders import ORDERS, formula_order, whole_run_order
    from pipelines.samplers import SAMPLERS

    parts = [
        "| deterministic sampler | settings | order in theory | of the formula, measured | of a whole run, measured |",
        "| --- | --- | --- | --- | --- |",
    ]
    for key, rows in ORDERS.items():
        for known in rows:
            told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.settings.items()) or "–"
            parts.append(
                f"| {SAMPLERS[key].label} | {told} | {known.theory} | {formula_order(key, known):.2f} "
                f"| {whole_run_order(key, known):.2f} |"
            )
    return parts


def _generate(studio: Studio, flags: argparse.Namespace) -> list[Path]:
    require_suffix(flags.out)
    view = follow(studio.submit("text_to_image", request_values(flags)), sys.stderr)
    results = [result for cell in view.cells for result in cell.results]
    names = (
        [flags.out]
        if len(results) == 1
        else [flags.out.with_stem(f"{flags.out.stem}-{i + 1}") for i in range(len(results))]
    )
    for result, name in zip(results, names, strict=True):
        write_result(studio.store.get(result).path, name)
    return names


def _compare(studio: Studio, flags: argparse.Namespace) -> list[Path]:
    from studio.exports.comparison import comparison_csv, comparison_picture

    require_suffix(flags.out, (".csv",))
    job = studio.submit("compare", compare_values(flags))
    follow(job, sys.stderr)
    if flags.out.suffix.lower() == ".csv":
        flags.out.write_text(comparison_csv(job), encoding="utf-8")
    else:
        write_picture(comparison_picture(job), flags.out)
    return [flags.out]


def _edit(studio: Studio, flags: argparse.Namespace) -> list[Path]:
    require_suffix(flags.out)
    view = follow(studio.submit("edit", edit_values(flags)), sys.stderr)
    for result in view.cells[-1].results if view.cells else ():
        write_result(studio.store.get(result).path, flags.out)
        return [flags.out]
    return []


def _convergence(studio: Studio, flags: argparse.Namespace) -> list[Path]:
    return run_convergence(studio, flags, request_values(flags))


_COMMANDS = {
    "generate": _generate,
    "compare": _compare,
    "edit": _edit,
    "animate": animate,
    "convergence": _convergence,
    "quantize": quantize,
    "learn": run_learn,
    **SHELVES,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 after one sentence on what is wrong."""
    flags = _parser().parse_args(arguments)
    if flags.command == "methods":
        print(method_tables())
        return 0
    let_threads_sleep()
    from studio.backend import Studio, StudioSettings

    try:
        studio = Studio(StudioSettings(outputs=flags.outputs_folder, models=flags.models_folder))
        try:
            for path in _COMMANDS[flags.command](studio, flags):
                print(path)
        finally:
            studio.close()
    except (StepwiseError, OSError) as error:
        print(f"studio: {error}", file=sys.stderr)
        return 2
    return 0

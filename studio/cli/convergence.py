"""`python -m studio convergence`: the errors of samplers against their evaluations, as a table."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.cli.requests import follow

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["add_convergence", "run_convergence"]

PARTS = ("network", "own", "preview", "decode")


def add_convergence(commands: Any, add_request: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the command to the subparsers; `add_request` gives it a request's own flags."""
    parser = commands.add_parser("convergence", help="measure samplers' errors to a long run")
    add_request(parser)
    parser.add_argument(
        "--samplers", default="all", metavar="KEYS", help="e.g. 'ddim, unipc', 'all first order' or all (default)"
    )
    # The defaults of these two are the task's: naming them here would import PyTorch before its threads are told to sleep.
    parser.add_argument(
        "--evaluations", metavar="NUMBERS", help="budgets, every guidance branch counted, e.g. '8, 10-50:10'"
    )
    parser.add_argument("--reference-steps", type=int, help="of the long run, 20 to 999")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .csv file")


def run_convergence(studio: Studio, flags: argparse.Namespace, base: dict[str, Any]) -> list[Path]:
    """Run it and write the table."""
    from studio.tasks.convergence import left_out_words

    values = {"base": base, "samplers": flags.samplers}
    values |= {
        name: getattr(flags, name) for name in ("evaluations", "reference_steps") if getattr(flags, name) is not None
    }
    job = studio.submit("convergence", values)
    view = follow(job, sys.stderr)
    if missing := left_out_words(view.outcome):
        print(missing, file=sys.stderr)
    with flags.out.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["sampler", "evaluations", "steps", "relative_error", *(f"{name}_s" for name in PARTS)])
        for point in view.outcome["points"]:
            spent = [f"{point['seconds'][name]:.6f}" for name in PARTS]
            writer.writerow([point["label"], point["evaluations"], point["steps"], f"{point['error']:.6g}", *spent])
    return [flags.out]

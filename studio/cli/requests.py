"""What the commands have in common: the flags of a request, and a job's progress on one line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, TextIO

from pipelines.core.choice_text import parse_choice, plain
from pipelines.core.errors import StepwiseError
from pipelines.core.types import METHODS, LoraChoice

if TYPE_CHECKING:
    from studio.jobs.job import Job, View

__all__ = ["add_request", "follow", "request_values"]

_NUMBERS = {
    "num-inference-steps": "steps of the sampler",
    "width": "pixels",
    "height": "pixels",
    "seed": "of the first picture; picture i of a batch has seed + i",
    "variation-seed": "of a second noise",
    "variation-strength": "how far the noise is turned towards the second one, 0 to 1",
    "batch-size": "pictures",
}


def _parse_lora(text: str) -> dict[str, Any]:
    name, _, weight = text.partition(":")
    lora = LoraChoice.parse({"name": name, "weight": plain(weight) if weight else 1.0})
    return {"name": lora.name, "weight": lora.weight}


def add_request(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a `Request`, the prompt first."""
    parser.add_argument("prompt")
    parser.add_argument("--negative-prompt")
    parser.add_argument("--model", help="key of the catalog (default: the shipped model)")
    for name in METHODS:
        parser.add_argument(f"--{name}", metavar="KEY[,SETTING=VALUE...]", help="e.g. ddim,eta=0.5")
    for name, text in _NUMBERS.items():
        kind = float if name == "variation-strength" else int
        names = [f"--{name}", "--steps"] if name == "num-inference-steps" else [f"--{name}"]
        parser.add_argument(*names, type=kind, help=text)
    parser.add_argument("--lora", action="append", default=[], metavar="NAME[:WEIGHT]", help="repeat for more")


def request_values(flags: argparse.Namespace) -> dict[str, Any]:
    """The Request's plain values that the flags gave."""
    names = ["prompt", "negative_prompt", "model", *(name.replace("-", "_") for name in _NUMBERS)]
    values = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    for name in METHODS:
        if (given := getattr(flags, name)) is not None:
            values[name] = parse_choice(given)
    if flags.lora:
        values["loras"] = [_parse_lora(lora) for lora in flags.lora]
    return values


def follow(job: Job, progress: TextIO) -> View:
    """Show a job's progress on one line until it ends.

    Raises:
        StepwiseError: it failed, with its own sentence.
    """
    view = job.view()
    try:
        while not view.status.final:
            done = sum(len(cell.rows) for cell in view.cells)
            total = sum(cell.num_steps for cell in view.cells)
            print(f"\r{view.message or view.status.value}: step {done} of {total} ", end="", file=progress, flush=True)
            view = job.wait(view.version, 0.5)
    except KeyboardInterrupt:
        job.cancel()
        view = job.wait(job.view().version, 5)
    print(file=progress)
    if view.status.value == "failed":
        raise StepwiseError(view.message)
    return view

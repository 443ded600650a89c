"""What the commands have in common: the flags of a request, and a job's progress on one line."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pipelines.core.choice_text import parse_choice, plain
from pipelines.core.errors import PictureError, StepwiseError
from pipelines.core.types import METHODS, LoraChoice

if TYPE_CHECKING:
    from studio.jobs.job import Job, View

__all__ = ["add_request", "follow", "read_request_values"]

_LINE_SECONDS = 10.0
"""Between two lines of progress in a file or a pipe."""

_NUMBERS = {
    "num-inference-steps": "steps of the sampler",
    "width": "pixels",
    "height": "pixels",
    "seed": "of the first picture (default: a random one); picture i of a batch has seed + i",
    "variation-seed": "of a second noise (default: a random one)",
    "variation-strength": "how far the noise is turned towards the second one, 0 to 1",
    "batch-size": "pictures",
}


def _parse_lora(text: str) -> dict[str, Any]:
    name, _, weight = text.partition(":")
    lora = LoraChoice.parse({"name": name, "weight": plain(weight) if weight else 1.0})
    return {"name": lora.name, "weight": lora.weight}


_EXAMPLES = {
    "sampler": "e.g. ddim,eta=0.5",
    "made_like": "e.g. comfyui,batch_index=1 or a1111_gpu",
    "second_pass": "e.g. latent,factor=2,strength=0.6 or pixel,upscaler=emoji-4x",
    "cache": "e.g. deepcache,interval=3",
    "vae": "e.g. file,name=sd-vae-ft-mse",
    "control": "e.g. controlnet,model=canny,picture=FILE,map=edges,strength=0.8,end=0.6",
    "t2i_adapter": "e.g. t2i_adapter,model=emoji-128-shapes,picture=FILE,map=edges,strength=0.8",
    "image_prompt": "e.g. ip_adapter,model=ip-adapter-sd15,picture=FILE,strength=0.6",
    "ensemble": "e.g. composition,second=emoji-128-flow,second_weight=0.5,course=fade_in",
    "sliders": "e.g. directions,file=foxes,first=1.5,third=-2",
    "story": "e.g. consistent,scenes=on a green background|on a blue background,sharing=0.5",
    "search": "e.g. random,budget=400 or zero_order,budget=800,neighbors=4",
    "reward": "what a search makes large, e.g. sharpness or color,color=d03030",
}


def add_request(parser: argparse.ArgumentParser, needs_prompt: bool = True) -> None:
    """Add the flags of a `Request`, the prompt first."""
    parser.add_argument("prompt", nargs=None if needs_prompt else "?")
    parser.add_argument("--negative-prompt")
    parser.add_argument("--prompt-weighting", metavar="KEY", help="what (word:1.2) does, e.g. interpolate or mean")
    parser.add_argument("--model", help="key of the catalog (default: the shipped model)")
    parser.epilog = (
        "Keys and settings of a method's flag: `python -m studio methods sampler`, `... methods cache`, and so on."
    )
    for name in METHODS:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="KEY[,SETTING=VALUE...]", help=_EXAMPLES.get(name))
    for name, text in _NUMBERS.items():
        kind = float if name == "variation-strength" else int
        names = [f"--{name}", "--steps"] if name == "num-inference-steps" else [f"--{name}"]
        parser.add_argument(*names, type=kind, help=text)
    parser.add_argument("--lora", action="append", default=[], metavar="NAME[:WEIGHT]", help="repeat for more")


def read_request_values(flags: argparse.Namespace) -> dict[str, Any]:
    """Read the Request's plain values that the flags gave."""
    names = ["prompt", "negative_prompt", "prompt_weighting", "model", *(name.replace("-", "_") for name in _NUMBERS)]
    values = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    for name in METHODS:
        if (text := getattr(flags, name)) is not None:
            values[name] = _read_picture_file(parse_choice(text))
    if flags.lora:
        values["loras"] = [_parse_lora(lora) for lora in flags.lora]
    return values


def _read_picture_file(choice: dict[str, Any]) -> dict[str, Any]:
    """A method's choice with the content of the picture's file in the place of its name."""
    if "picture" not in choice:
        return choice
    path = Path(str(choice["picture"]))
    try:
        return {**choice, "picture": path.read_bytes()}
    except OSError as error:
        raise PictureError(f"The picture {path} cannot be read ({error.strerror}).") from error


def follow(job: Job, progress: TextIO) -> View:
    """Show a job's progress on one line until it ends; where `progress` is no terminal, as a line now and then.

    Raises:
        StepwiseError: it failed, with its own sentence.
    """
    view, is_terminal, due = job.view(), progress.isatty(), 0.0
    try:
        while not view.status.final:
            steps_done = sum(len(cell.rows) for cell in view.cells)
            total = sum(cell.num_steps for cell in view.cells)
            words = f"{view.message or view.status.value}: step {steps_done} of {total}"
            if (population := view.population) is not None:
                words = (
                    f"{view.status.value}: {population.spent:g} of {population.budget} evaluations, "
                    f"best reward {population.best.reward:.4g}"
                )
            if is_terminal:
                print(f"\r{words} ", end="", file=progress, flush=True)
            elif time.monotonic() >= due:
                print(words, file=progress, flush=True)
                due = time.monotonic() + _LINE_SECONDS
            view = job.wait(view.version, 0.5)
    except KeyboardInterrupt:
        job.cancel()
        view = job.wait(job.view().version, 5)
    if is_terminal:
        print(file=progress)
    if view.status.value == "failed":
        raise StepwiseError(view.message)
    return view

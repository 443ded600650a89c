"""The task behind "Look inside", the /inspect endpoint and `python -m studio inspect`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.choice_text import parse_choice
from studio.tasks.entry import PICTURE, Command, Endpoint, build_prompt_argument

if TYPE_CHECKING:
    from pipelines.workflows.inspect import InspectRequest
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext

__all__ = ["Inspect"]


class InspectCommand(Command):
    """Defines `python -m studio inspect`."""

    name, help, out = (
        "inspect",
        "look at what a picture, a prompt and a model have to do with each other",
        "a .json file",
    )
    suffixes = (".json",)

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--inspection",
            default="word_attention",
            metavar="KEY[,SETTING=VALUE...]",
            help="e.g. seed_shift,step=2 (default: word_attention)",
        )
        parser.add_argument(
            "--picture", type=Path, metavar="FILE", help="that is inspected (default: the one that the request draws)"
        )
        parser.add_argument(
            "--compare-prompts", default="", metavar="TEXTS", help="of the classifier, with semicolons between"
        )
        parser.add_argument("--words", default="", help="of word_information, with a comma between")

    def values(self, flags: argparse.Namespace, base: Mapping[str, object]) -> dict[str, Any]:
        inspection = parse_choice(flags.inspection)
        settings = inspection if isinstance(inspection, dict) else {"key": inspection}
        texts = {"prompts": flags.compare_prompts, "words": flags.words}
        settings = {**settings, **{name: text for name, text in texts.items() if text}}
        picture = {} if flags.picture is None else {"picture": flags.picture.read_bytes()}
        return {"base": dict(base), "inspection": settings, **picture}

    def write(self, job: Job, flags: argparse.Namespace, context: TaskContext) -> Iterator[object]:
        outcome = dict(job.view().outcome)
        flags.out.write_text(json.dumps(outcome, indent=1, ensure_ascii=False) + "\n", "utf-8")
        if outcome.get("sentence"):
            yield outcome["sentence"]
        yield from (f"{name}: {value:.6g}" for name, value in outcome.get("figures", {}).items())
        yield flags.out
        yield from _write_pictures(job, flags.out) if outcome.get("curve") else ()


def _write_pictures(job: Job, out: Path) -> Iterator[Path]:
    """Write the pictures of a probe beside its figures, as NAME-1.png and so on."""
    from PIL import Image  # late: see `Task`

    images = job.view().cells[0].images
    for index, image in enumerate(() if images is None else images, 1):
        name = out.with_name(f"{out.stem}-{index}.png")
        Image.fromarray(image).save(name)
        yield name


class Inspect:
    """Look at what a picture, a prompt and a model have to do with each other; a learned word alone is stored."""

    key = "inspect"
    command = InspectCommand()
    endpoint = Endpoint(
        "inspect",
        "Look at what a picture, a prompt and a model have to do with each other; its outcome has figures, maps as "
        "rows of numbers, and the points of a curve.",
        '{"base": fields of a request, "inspection": "word_attention", "word_information", "classifier", '
        '"autoencoder_trace", "seed_shift", "smoothness", "personalization", "protection" or "directions" with its '
        "settings, "
        '"picture": the file of the picture as base64 or as a data URL; without one the request\'s own is drawn}.',
        (build_prompt_argument("what the picture shows."),),
        examples=(
            {"inspection": {"key": "word_attention", "draws": 1}, "picture": PICTURE},
            {"inspection": {"key": "seed_shift", "points": 3}},
        ),
    )

    def parse(self, values: Mapping[str, object], context: TaskContext) -> InspectRequest:
        from studio.tasks.runs import inspect  # late: see `Task`

        return inspect.parse(values, context)

    def work(self, request: InspectRequest) -> tuple[float, float]:
        pieces = request.build().count_pieces()
        draws = request.inspection.key in ("seed_shift", "smoothness", "directions")
        own = 0 if request.picture is not None else request.base.num_inference_steps
        return own + pieces * (request.base.num_inference_steps if draws else 4), 2

    def run(self, request: InspectRequest, job: Job, context: TaskContext) -> None:
        from studio.tasks.runs import inspect  # late: see `Task`

        inspect.run(request, job, context)

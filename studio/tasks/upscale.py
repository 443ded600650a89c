"""The task behind Upscale, the /upscale endpoint and `python -m studio upscale`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.exports.pictures import PICTURES, write_result
from studio.tasks.entry import Argument, Command, Endpoint, build_prompt_argument

if TYPE_CHECKING:
    from pipelines.workflows.upscale import UpscaleRequest
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext

__all__ = ["Upscale"]


class UpscaleCommand(Command):
    """Defines `python -m studio upscale`."""

    name, help, out = "upscale", "enlarge a picture", "a .png, .jpg or .webp file"
    suffixes, needs_prompt = PICTURES, False

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--picture", type=Path, required=True, metavar="FILE", help="what is enlarged")
        parser.add_argument("--upscaler", metavar="NAME", help="lanczos, emoji-2x (default), or a file's name")
        parser.add_argument("--factor", type=float, default=2.0, help="how many times larger, 1 to 8 (default: 2)")
        parser.add_argument(
            "--strength",
            type=float,
            default=0.0,
            help="denoising strength of a second pass (hires fix), 0 to 1 (default: 0, none)",
        )

    def values(self, flags: argparse.Namespace, base: Mapping[str, object]) -> dict[str, Any]:
        options = {name: getattr(flags, name) for name in ("upscaler", "factor", "strength")}
        specified = {name: value for name, value in options.items() if value is not None}
        return {"base": dict(base), "picture": flags.picture.read_bytes(), **specified}

    def write(self, job: Job, flags: argparse.Namespace, context: TaskContext) -> Iterator[Path]:
        for result in [result for cell in job.view().cells for result in cell.results][:1]:
            write_result(context.store.get(result).path, flags.out)
            yield flags.out


class Upscale:
    """Enlarge a picture by a network, and where it is asked for denoise it part of the way at its new size."""

    key = "upscale"
    command = UpscaleCommand()
    endpoint = Endpoint(
        "upscale",
        "Enlarge a picture; streams the steps of a second pass, then returns the enlarged picture.",
        '{"upscaler": "lanczos", "emoji-2x" or a file of the models folder, "factor": 1 to 8, "strength": share of the '
        'steps of a second pass, 0 for none, "base": fields of a request, which the second pass uses}.',
        (
            build_prompt_argument("what the picture shows; only a second pass needs it."),
            Argument("picture", "the picture's file as base64 or as a data URL.", ("picture",)),
        ),
        examples=({"factor": 2, "strength": 0.5}, {"upscaler": "lanczos", "factor": 1.5}),
    )

    def parse(self, values: Mapping[str, object], context: TaskContext) -> UpscaleRequest:
        from studio.tasks.runs import upscale  # late: see `Task`

        return upscale.parse(values, context)

    def work(self, request: UpscaleRequest) -> tuple[float, float]:
        return 1 + request.base.num_inference_steps * request.strength, 5  # the enlarging counts as a step

    def run(self, request: UpscaleRequest, job: Job, context: TaskContext) -> None:
        from studio.tasks.runs import upscale  # late: see `Task`

        upscale.run(request, job, context)

"""The task behind the Text to image tab, the /generate endpoint and `python -m studio generate`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.exports.pictures import PICTURES, write_result
from studio.tasks.entry import Command, Endpoint, build_prompt_argument

if TYPE_CHECKING:
    from pipelines.core.types import Request
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext

__all__ = ["TextToImage"]


class Generate(Command):
    """Defines `python -m studio generate`."""

    name, help = "generate", "make pictures from a prompt"
    out = "a .png, .jpg or .webp file; a batch adds -1, -2, ..."
    suffixes = PICTURES

    def values(self, flags: Namespace, base: Mapping[str, object]) -> dict[str, Any]:
        return dict(base)

    def write(self, job: Job, flags: Namespace, context: TaskContext) -> Iterator[Path]:
        results = [result for cell in job.view().cells for result in cell.results]
        for i, result in enumerate(results):
            name = flags.out if len(results) == 1 else flags.out.with_stem(f"{flags.out.stem}-{i + 1}")
            write_result(context.store.get(result).path, name)
            yield name


class TextToImage:
    """Generate a batch from one request, every step visible."""

    key = "text_to_image"
    command = Generate()
    endpoint = Endpoint(
        "generate",
        "Make pictures from a prompt; streams progress, then returns the pictures as files.",
        'any other fields of a request by name, e.g. {"num_inference_steps": 20, "seed": 7, '
        '"sampler": {"key": "ddim", "eta": 0.5}, "guidance": {"key": "cfg", "guidance_scale": 5}}.',
        (build_prompt_argument("what the picture should show.", "prompt"),),
    )

    def parse(self, values: Mapping[str, object], context: TaskContext) -> Request:
        from studio.tasks.runs.text_to_image import check_size, parse_request  # late: see `Task`

        request = parse_request(values, context, second_pass=True, steered=True, composed=True, stories=True)
        check_size(request, context)
        return request

    def work(self, request: Request) -> tuple[float, float]:
        from pipelines.search import SEARCHES  # late: see `Task`
        from pipelines.second_passes import SECOND_PASSES  # late: see `Task`

        if (search := SEARCHES.build(request.search)) is not None:
            return search.settings.budget / 2, 0  # a guided step is two evaluations

        second = SECOND_PASSES.build(request.second_pass)
        passes = (
            1 + second.strength * second.factor**2
        )  # a step at the larger size takes as much longer as it has pixels
        return request.num_inference_steps * request.batch_size * passes, 0

    def run(self, request: Request, job: Job, context: TaskContext) -> None:
        from studio.tasks.runs import text_to_image  # late: see `Task`

        text_to_image.run(request, job, context)

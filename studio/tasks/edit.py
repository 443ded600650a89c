"""The task behind the Edit tab, the /edit endpoint and `python -m studio edit`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.choice_text import parse_choice
from studio.exports.pictures import PICTURES, write_result
from studio.tasks.entry import MASK, PICTURE, Argument, Command, Endpoint, build_prompt_argument

if TYPE_CHECKING:
    from pipelines.workflows.edit.request import EditRequest
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext

__all__ = ["Edit", "EditCommand"]

_EXAMPLE = {"source_prompt": "a fox on a blue background", "inversion": "direct", "fit": "crop"}


class EditCommand(Command):
    """Defines `python -m studio edit`."""

    name, help, out = "edit", "change a picture", "a .png, .jpg or .webp file"
    suffixes = PICTURES

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--picture", type=Path, required=True, metavar="FILE", help="the source")
        parser.add_argument(
            "--mask", type=Path, metavar="FILE", help="a picture of the source's size, white where it may change"
        )
        parser.add_argument(
            "--reference", type=Path, metavar="FILE", help="a picture whose style an edit takes over that takes one"
        )
        parser.add_argument("--source-prompt", default="", help="what the source shows")
        self.add_methods(parser)
        parser.add_argument(
            "--fit", choices=("crop", "resize"), default="crop", help="for a picture of other proportions"
        )

    def add_methods(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of the methods."""
        parser.add_argument(
            "--edit",
            default="image_to_image",
            metavar="KEY[,SETTING=VALUE...]",
            help="e.g. inpaint, or replace,cross_until=0.4",
        )
        parser.add_argument("--inversion", default="direct", metavar="KEY[,SETTING=VALUE...]", help="e.g. edict,p=0.93")

    def read_methods(self, flags: argparse.Namespace) -> dict[str, Any]:
        """Return the methods' part of the task's values."""
        return {name: parse_choice(getattr(flags, name)) for name in ("edit", "inversion")}

    def values(self, flags: argparse.Namespace, base: Mapping[str, object]) -> dict[str, Any]:
        names = ("picture", "mask", "reference")
        files = {name: path.read_bytes() for name in names if (path := getattr(flags, name)) is not None}
        methods = self.read_methods(flags)
        return {"base": dict(base), **files, **methods, "source_prompt": flags.source_prompt, "fit": flags.fit}

    def write(self, job: Job, flags: argparse.Namespace, context: TaskContext) -> Iterator[Path]:
        cells = job.view().cells
        for result in cells[-1].results[:1] if cells else ():
            write_result(context.store.get(result).path, flags.out)
            yield flags.out


class Edit:
    """Change a picture; the way up to the noise and the way back down are both visible step by step."""

    key = "edit"
    command = EditCommand()
    endpoint = Endpoint(
        "edit",
        "Change a picture; streams progress, then returns the edited picture and its figures.",
        '{"base": fields of a request, "edit": the key of an edit with its settings, e.g. {"key": "inpaint", '
        '"strength": 0.8}, "inversion": the key of an inversion with its settings, "source_prompt": what '
        'the source shows, "mask": a picture like the source, white where it may change, "reference": a picture whose '
        'style is taken over, by edits that take one, "fit": "crop" or "resize"}.',
        (
            build_prompt_argument("what the edited picture should show."),
            Argument("picture", "the source's file as base64 or as a data URL.", ("picture",)),
        ),
        examples=(
            {**_EXAMPLE, "edit": {"key": "inpaint"}, "mask": MASK},
            {**_EXAMPLE, "edit": {"key": "replace"}},
            {**_EXAMPLE, "edit": {"key": "outpaint", "left": 8}},
            {**_EXAMPLE, "edit": {"key": "style_aligned"}, "reference": PICTURE},
        ),
    )

    def parse(self, values: Mapping[str, object], context: TaskContext) -> EditRequest:
        from studio.tasks.runs import edit  # late: see `Task`

        return edit.parse(values, context)

    def work(self, request: EditRequest) -> tuple[float, float]:
        return 3 * request.base.num_inference_steps, 0  # there, back, and the reconstruction

    def run(self, request: EditRequest, job: Job, context: TaskContext) -> None:
        from studio.tasks.runs import edit  # late: see `Task`

        edit.run(request, job, context)

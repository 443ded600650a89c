"""The task behind the Video tab, the /animate endpoint and `python -m studio animate`."""

from __future__ import annotations

import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.choice_text import parse_choice
from pipelines.core.errors import SettingsError
from studio.tasks.entry import Command, Endpoint, build_prompt_argument

if TYPE_CHECKING:
    from pipelines.workflows.video.request import VideoRequest
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext

__all__ = ["Animate", "parse_key"]


_ENCODING_SECONDS = 0.5
"""Of a further prompt."""


def parse_key(text: str) -> dict[str, Any]:
    """Return {"prompt": "a cat", "seed": 7} from "a cat@7"; either part may be left out."""
    prompt, at, seed = text.rpartition("@")
    if not at or not seed.strip().isdigit():
        prompt, seed = text, ""
    key: dict[str, Any] = {"prompt": prompt.strip()} if prompt.strip() else {}
    return key | ({"seed": int(seed)} if seed else {})


class AnimateCommand(Command):
    """Defines `python -m studio animate`."""

    name, help, out = "animate", "make a clip", "a .mp4, .webp or .gif file; without a suffix it gets one"

    def add_flags(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--key",
            action="append",
            default=[],
            metavar="[PROMPT][@SEED]",
            help="where a walk goes next, e.g. 'a cat@7', or '@7' for another seed; repeat for more",
        )
        parser.add_argument(
            "--method", metavar="KEY[,SETTING=VALUE...]", help="e.g. walk,loop=true (default: what fits the model)"
        )
        parser.add_argument("--frames", type=int, help="of the clip (default: the model's)")
        parser.add_argument("--fps", type=int, help="frames a second (default: the model's)")
        parser.add_argument("--first-frame", type=Path, metavar="FILE", help="a picture that the clip starts from")

    def values(self, flags: Namespace, base: Mapping[str, object]) -> dict[str, Any]:
        from pipelines.workflows.video.request import CLIP_FORMATS  # late: see `Task`

        format = flags.out.suffix.lower().lstrip(".")
        if format and format not in CLIP_FORMATS:
            raise SettingsError(f"{flags.out.name} is not a clip's name. End it in .{', .'.join(CLIP_FORMATS)}.")
        options = {
            "format": format or None,
            "frames": flags.frames,
            "fps": flags.fps,
            "method": flags.method and parse_choice(flags.method),
            "first_frame": flags.first_frame and flags.first_frame.read_bytes(),
        }
        values = {"base": dict(base), "keys": [parse_key(key) for key in flags.key]}
        return values | {name: value for name, value in options.items() if value is not None}

    def write(self, job: Job, flags: Namespace, context: TaskContext) -> Iterator[Path]:
        cells = job.view().cells
        for note in {cell.note for cell in cells if cell.note}:
            print(note, file=sys.stderr)
        for result in cells[0].results[:1] if cells else ():
            clip = context.store.get(result).path
            out = flags.out if flags.out.suffix else flags.out.with_suffix(clip.suffix)
            shutil.copyfile(clip, out)
            yield out


class Animate:
    """Make a clip: steps and finished frames are shown as they come."""

    key = "animate"
    command = AnimateCommand()
    endpoint = Endpoint(
        "animate",
        'Make a clip; streams progress, then returns its file (in "images") and figures.',
        '{"base": fields of a request, "frames": 24, "fps": 12, "format": "mp4" (needs PyAV), "webp" or "gif", '
        '"keys": [{"prompt": ..., "seed": ...}, ...] that a walk goes on to, "first_frame": a picture\'s file as '
        'base64 or as a data URL, "method": "walk", "animatediff", "svd" or "pipeline" with its settings}.',
        (build_prompt_argument("what the clip should show, or a walk's first prompt."),),
        examples=(
            {
                "frames": 3,
                "fps": 12,
                "format": "webp",
                "method": {"key": "walk"},
                "keys": [{"prompt": "a cat", "seed": 8}],
            },
        ),
        unfit=frozenset({"first_frame"}),
    )

    def parse(self, values: Mapping[str, object], context: TaskContext) -> VideoRequest:
        from studio.tasks.runs import animate  # late: see `Task`

        return animate.parse(values, context)

    def work(self, request: VideoRequest) -> tuple[float, float]:
        return request.base.num_inference_steps * request.frames, _ENCODING_SECONDS * len(request.keys)

    def run(self, request: VideoRequest, job: Job, context: TaskContext) -> None:
        from studio.tasks.runs import animate  # late: see `Task`

        animate.run(request, job, context)

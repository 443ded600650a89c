"""The task behind the Video tab, the /animate endpoint and `python -m studio animate`."""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipelines.core.choice_text import parse_choice
from pipelines.core.errors import SettingsError
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.models.video_models import video_model
from pipelines.requests.limits import check_fit
from pipelines.workflows.edit.request import pixels_kept
from pipelines.workflows.video import VIDEOS
from pipelines.workflows.video.base import ClipFrames, ClipStep
from pipelines.workflows.video.request import CLIP_FORMATS, VideoRequest
from studio.jobs.job import Cell, Frame, Job, JobStatus, StepRow
from studio.media.clips import NO_MP4, check_format, default_format
from studio.tasks.entry import Command, Endpoint, prompt
from studio.tasks.pictures import read_picture
from studio.tasks.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["PENDING", "STRIP", "Animate", "ClipFrame", "parse_key"]

STRIP = 8
"""Frames of the strip that is shown while a clip is made."""

_ENCODING_SECONDS = 0.5
"""Of a further prompt."""

PENDING = 128
"""Gray of a frame that has not begun."""


@dataclasses.dataclass(frozen=True)
class ClipFrame(Frame):
    """A step's small pictures; `strip` beside them shows eight frames of the whole clip: (n, h, w, 3) uint8.

    Attributes:
        finished: frames of the clip that are finished.
    """

    strip: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    finished: int = 0


def parse_key(text: str) -> dict[str, Any]:
    """{"prompt": "a cat", "seed": 7} from "a cat@7"; either part may be left out."""
    prompt, at, seed = text.rpartition("@")
    if not at or not seed.strip().isdigit():
        prompt, seed = text, ""
    key: dict[str, Any] = {"prompt": prompt.strip()} if prompt.strip() else {}
    return key | ({"seed": int(seed)} if seed else {})


class AnimateCommand(Command):
    """`python -m studio animate`."""

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

    def values(self, flags: Namespace, base: Mapping[str, Any]) -> dict[str, Any]:
        format = flags.out.suffix.lower().lstrip(".")
        if format and format not in CLIP_FORMATS:
            raise SettingsError(f"{flags.out.name} is no clip's name. End it in .{', .'.join(CLIP_FORMATS)}.")
        given = {
            "format": format or None,
            "frames": flags.frames,
            "fps": flags.fps,
            "method": flags.method and parse_choice(flags.method),
            "first_frame": flags.first_frame and flags.first_frame.read_bytes(),
        }
        values = {"base": dict(base), "keys": [parse_key(key) for key in flags.key]}
        return values | {name: value for name, value in given.items() if value is not None}

    def write(self, job: Job, flags: Namespace, context: TaskContext) -> Iterator[Path]:
        cells = job.view().cells
        for note in {cell.note for cell in cells if cell.note}:
            print(note, file=sys.stderr)
        for result in cells[0].results[:1] if cells else ():
            made = context.store.get(result).path
            out = flags.out if flags.out.suffix else flags.out.with_suffix(made.suffix)
            shutil.copyfile(made, out)
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
        (prompt("what the clip should show, or a walk's first prompt."),),
    )

    def parse(self, values: Mapping[str, Any], context: TaskContext) -> VideoRequest:
        plain = values.get("base", {})
        if not isinstance(plain, Mapping):
            raise SettingsError(f"The base of a clip is given as {str(plain)[:80]!r}. Give an object of settings.")
        entry = context.catalog[Request.parse(plain).model]
        known = video_model(entry)
        defaults = {name: value for name, value in known.defaults.items() if name not in entry.defaults}

        def read(base: Mapping[str, Any]) -> Request:
            return parse_request({**defaults, **base}, context, known.prompt)

        usual = default_format()
        request = VideoRequest.parse({"format": usual, **values}, entry, read, read_picture, context.limits)
        check_format(request.format)
        if "format" not in values and usual != "mp4":
            request = request.replace(notes=(*request.notes, NO_MP4))
        return _shrunk_upload(request, context.limits.max_side)

    def work(self, request: VideoRequest) -> tuple[float, float]:
        return request.base.num_inference_steps * request.frames, _ENCODING_SECONDS * len(request.keys)

    def run(self, request: VideoRequest, job: Job, context: TaskContext) -> None:
        method = VIDEOS[request.method.key].build(request.method.settings)
        job.set_cells([Cell(num_steps=method.num_steps(request.job()), note=" ".join(request.notes))])
        with context.model(request.base.model, job) as model:
            made = _Clip(request, job)
            job.set_status(JobStatus.RUNNING)
            if isinstance(model, Family):
                request = _resolved(request, model)
                with model.loras(context.load_loras(request.base.loras)):
                    made.take(method.run(request.job(), model, job.cancelled))
            else:
                made.take(method.run(request.job(), model, job.cancelled))
        made.finish(request, context)


def _shrunk_upload(request: VideoRequest, most: int) -> VideoRequest:
    """With no more of the first frame than the clip can show: jobs are kept, and uploads are large."""
    if request.first_frame is None:
        return request
    kept = request.first_frame.within(pixels_kept(request.base.width or most, request.base.height or most))
    told = kept.notes[len(request.first_frame.notes) :]
    return request.replace(first_frame=kept, notes=(*request.notes, *told))


def _resolved(request: VideoRequest, family: Family) -> VideoRequest:
    """With the model's own size where none was given."""
    check_fit(request.base, family.traits)
    width, height = family.default_size
    base = request.base
    return request.replace(base=base.replace(width=base.width or width, height=base.height or height))


class _Clip:
    """One clip in the worker thread: its frames so far, and the strip of them."""

    def __init__(self, request: VideoRequest, job: Job):
        self.request, self.job = request, job
        self.pictures: list[np.ndarray] = []
        self.finished = 0
        self.tiles: dict[int, np.ndarray] = {}
        self.last: ClipStep | None = None

    def take(self, events: Any) -> None:
        """Follow a method's run to its end."""
        for event in events:
            if isinstance(event, ClipFrames):
                self._add(event)
            else:
                self._record(event)

    def _add(self, event: ClipFrames) -> None:
        self.pictures.append(event.pictures)
        self.finished += len(event.pictures)
        for place, frame in self._shown(event.first, len(event.pictures)):
            self.tiles[place] = _shrunk(event.pictures[frame])
        self.job.update_cell(0, images=self._strip())

    def _record(self, step: ClipStep) -> None:
        small = step.denoised if step.denoised is not None else step.noisy
        if step.first != getattr(self.last, "first", 0):
            self.job.update_cell(0, frames=[])  # of the frames before, only the finished ones are kept
        self.last = step
        if small is None:
            small = np.full((1, 8, 8, 3), PENDING, np.uint8)
        for place, frame in self._shown(step.first, step.num_frames):
            self.tiles[place] = small[frame * len(small) // step.num_frames]
        noisy = small if step.noisy is None else step.noisy
        row = StepRow(step.index, step.sigma, step.timestep, step.evaluations, step.seconds)
        self.job.add_step(0, row, ClipFrame(noisy, small, None, self._strip(), self.finished))

    def _shown(self, first: int, count: int) -> list[tuple[int, int]]:
        """Places in the strip, and which of `count` frames from `first` on stands there."""
        frames = self.request.frames
        shown = (
            [round(place * (frames - 1) / (STRIP - 1)) for place in range(STRIP)] if frames > STRIP else range(frames)
        )
        return [(place, frame - first) for place, frame in enumerate(shown) if first <= frame < first + count]

    def _strip(self) -> np.ndarray:
        """(n, h, w, 3): every frame of the strip at the largest size that one of them has."""
        height, width = max(tile.shape[:2] for tile in self.tiles.values())
        gray = np.full((1, 1, 3), PENDING, np.uint8)
        tiles = [self.tiles.get(place, gray) for place in range(min(STRIP, self.request.frames))]
        return np.stack([_sized(tile, width, height) for tile in tiles])

    def finish(self, request: VideoRequest, context: TaskContext) -> None:
        """Show the clip's strip and store it, in this order: a full disk then does not take it away."""
        frames = np.concatenate(self.pictures)
        figures: dict[str, float | None] = {"frames": len(frames), "fps": request.fps}
        if self.last is not None:
            figures |= {"evaluations": self.last.evaluations, "seconds": self.last.seconds}
        height, width = frames.shape[1:3]
        base = request.base.replace(width=width, height=height)
        kept = self.job.view().cells[0].frames[-1:]  # the strip stays, the way there is not kept
        self.job.update_cell(0, images=self._strip(), figures=figures, frames=kept)
        self.job.set_outcome(
            {"animate": request.to_json(), "seconds": len(frames) / request.fps, "size": [width, height]}
        )
        request = request.replace(base=base)
        clip = context.encode_clip(frames, request)
        self.job.update_cell(0, clip=clip)
        result = context.save_clip(clip, frames, request, self.job, figures)
        self.job.update_cell(0, results=(result,), clip=b"")


_TILE = 256


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    """A finished frame for the strip: whole, or every n-th pixel of a large one."""
    every = max(1, math.ceil(max(pixels.shape[:2]) / _TILE))
    return pixels[::every, ::every]


def _sized(tile: np.ndarray, width: int, height: int) -> np.ndarray:
    if tile.shape[:2] == (height, width):
        return tile
    return np.asarray(Image.fromarray(np.ascontiguousarray(tile)).resize((width, height), Image.Resampling.BILINEAR))

"""A clip in the worker: its steps and its finished frames as they come."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipelines.core.errors import SettingsError
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.models.video_models import video_model
from pipelines.requests.extras import find_extras
from pipelines.requests.limits import check_fit
from pipelines.workflows.edit.request import pixels_kept
from pipelines.workflows.video import VIDEOS
from pipelines.workflows.video.base import ClipFrames, ClipStep
from pipelines.workflows.video.request import VideoRequest
from studio.jobs.job import Cell, Frame, Job, JobStatus, StepRow
from studio.jobs.view import SHARP_STEPS
from studio.media.clips import NO_MP4, check_format, get_default_format
from studio.tasks.extras import give_pictures
from studio.tasks.pictures import read_picture
from studio.tasks.runs.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["PENDING", "STRIP", "ClipFrame", "parse", "run"]

STRIP = 8
"""Frames of the strip that is shown while a clip is made."""


PENDING = 128
"""Gray of a frame that has not begun."""


@dataclasses.dataclass(frozen=True)
class ClipFrame(Frame):
    """Holds a step's small pictures; `strip` beside them shows eight frames of the whole clip: (n, h, w, 3) uint8.

    Attributes:
        finished: frames of the clip that are finished.
    """

    strip: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    finished: int = 0


def _shrink_upload(request: VideoRequest, max_side: int) -> VideoRequest:
    """With no more of the first frame than the clip can show: jobs are kept, and uploads are large."""
    if request.first_frame is None:
        return request
    first_frame = request.first_frame.within(
        pixels_kept(request.base.width or max_side, request.base.height or max_side)
    )
    notes = first_frame.notes[len(request.first_frame.notes) :]
    return request.replace(first_frame=first_frame, notes=(*request.notes, *notes))


def _resolve_size(request: VideoRequest, family: Family) -> VideoRequest:
    """With the model's own size where none was given."""
    check_fit(request.base, family.traits)
    width, height = family.default_size
    base = request.base
    return request.replace(base=base.replace(width=base.width or width, height=base.height or height))


class _Clip:
    """One clip in the worker thread: its frames so far, and the strip of them."""

    def __init__(self, request: VideoRequest, job: Job, context: TaskContext):
        self.request, self.job, self.context = request, job, context
        self.pictures: list[np.ndarray] = []
        self.finished = 0
        self.tiles: dict[int, np.ndarray] = {}
        self.last: ClipStep | None = None
        self._shown, self._shown_at = np.zeros((1, 1, 1, 3), np.uint8), 0

    def follow(self, events: Any) -> None:
        """Follow a method's run to its end."""
        for event in events:
            if isinstance(event, ClipFrames):
                self._add(event)
            else:
                self._record(event)

    def _add(self, event: ClipFrames) -> None:
        pictures = self.context.release_pictures(event.pictures, self.request.base.model, self.job)
        self.pictures.append(pictures)
        self.finished += len(event.pictures)
        for place, frame in self._list_strip_places(event.first, len(event.pictures)):
            self.tiles[place] = _shrink(pictures[frame])
        self.job.update_cell(0, images=self._build_strip())

    def _record(self, step: ClipStep) -> None:
        small = step.denoised if step.denoised is not None else step.noisy
        if step.first != getattr(self.last, "first", 0):
            self.job.update_cell(0, frames=[])  # of the frames before, only the finished ones are kept
            self._shown_at = -SHARP_STEPS
        self.last = step
        if small is None:
            small = np.full((1, 8, 8, 3), PENDING, np.uint8)
        noisy = small if step.noisy is None else step.noisy
        # Larger ones went through the tiny decoder: one that is not old stands until the next.
        if small.shape[1] >= self._shown.shape[1] or step.index - self._shown_at >= SHARP_STEPS:
            self._shown, self._shown_at = small, step.index
        small = self._shown
        for place, frame in self._list_strip_places(step.first, step.num_frames):
            self.tiles[place] = small[frame * len(small) // step.num_frames]
        row = StepRow(step.index, step.sigma, step.timestep, step.evaluations, step.seconds)
        self.job.add_step(0, row, ClipFrame(noisy, small, strip=self._build_strip(), finished=self.finished))

    def _list_strip_places(self, first: int, count: int) -> list[tuple[int, int]]:
        """Places in the strip, and which of `count` frames from `first` on stands there."""
        frames = self.request.frames
        places = (
            [round(place * (frames - 1) / (STRIP - 1)) for place in range(STRIP)] if frames > STRIP else range(frames)
        )
        return [(place, frame - first) for place, frame in enumerate(places) if first <= frame < first + count]

    def _build_strip(self) -> np.ndarray:
        """(n, h, w, 3): every frame of the strip at the largest size that one of them has."""
        height, width = max(tile.shape[:2] for tile in self.tiles.values())
        gray = np.full((1, 1, 3), PENDING, np.uint8)
        tiles = [self.tiles.get(place, gray) for place in range(min(STRIP, self.request.frames))]
        return np.stack([_resize(tile, width, height) for tile in tiles])

    def finish(self, request: VideoRequest, context: TaskContext) -> None:
        """Show the clip's strip and store it, in this order: a full disk then does not take it away."""
        frames = np.concatenate(self.pictures)
        figures: dict[str, float | None] = {"frames": len(frames), "fps": request.fps}
        if self.last is not None:
            figures |= {"evaluations": self.last.evaluations, "seconds": self.last.seconds}
        height, width = frames.shape[1:3]
        base = request.base.replace(width=width, height=height)
        last_frame = self.job.view().cells[0].frames[-1:]  # the strip stays, the way there is not kept
        self.job.update_cell(0, images=self._build_strip(), figures=figures, frames=last_frame)
        self.job.set_outcome(
            {"animate": request.to_json(), "seconds": len(frames) / request.fps, "size": [width, height]}
        )
        request = request.replace(base=base)
        frames = context.release_pictures(frames, base.model, self.job)  # steps go, too, where a frame is withheld
        clip = context.encode_clip(frames, request)
        self.job.update_cell(0, clip=clip)
        result = context.save_clip(clip, frames, request, self.job, figures)
        self.job.update_cell(0, results=(result,), clip=b"")


_TILE = 256


def _shrink(pixels: np.ndarray) -> np.ndarray:
    """A finished frame for the strip: whole, or every n-th pixel of a large one."""
    stride = max(1, math.ceil(max(pixels.shape[:2]) / _TILE))
    return pixels[::stride, ::stride]


def _resize(tile: np.ndarray, width: int, height: int) -> np.ndarray:
    if tile.shape[:2] == (height, width):
        return tile
    return np.asarray(Image.fromarray(np.ascontiguousarray(tile)).resize((width, height), Image.Resampling.BILINEAR))


def parse(values: Mapping[str, object], context: TaskContext) -> VideoRequest:
    """Read untrusted values: see `Task.parse`."""
    plain = values.get("base", {})
    if not isinstance(plain, Mapping):
        raise SettingsError(f"The base of a clip is given as {str(plain)[:80]!r}. Give an object of settings.")
    entry = context.catalog[Request.parse(plain).model]
    video = video_model(entry)
    defaults = {name: value for name, value in video.defaults.items() if name not in entry.defaults}

    def read(base: Mapping[str, object]) -> Request:
        return parse_request({**defaults, **base}, context, video.prompt, steered=True)

    default_format = get_default_format()
    request = VideoRequest.parse({"format": default_format, **values}, entry, read, read_picture, context.limits)
    check_format(request.format)
    if "format" not in values and default_format != "mp4":
        request = request.replace(notes=(*request.notes, NO_MP4))
    return _shrink_upload(request, context.limits.max_side)


def run(request: VideoRequest, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job: see `Task.run`."""
    method = VIDEOS[request.method.key].build(request.method.settings)
    job.set_cells([Cell(num_steps=method.num_steps(request.job()), note=" ".join(request.notes))])
    with context.model(request.base.model, job, find_extras(request.base)) as model:
        clip = _Clip(request, job, context)
        job.set_status(JobStatus.RUNNING)
        if isinstance(model, Family):
            request = _resolve_size(request, model)
            give_pictures(model, [request.base], context)
            with model.loras(context.load_loras(request.base.loras)):
                clip.follow(method.run(request.job(), model, job.cancelled))
        else:
            clip.follow(method.run(request.job(), model, job.cancelled))
    clip.finish(request, context)

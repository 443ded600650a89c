"""Animating: what a person asks for, checked as far as it can be without the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.core.errors import PictureError, SettingsError, UnknownMethodError
from pipelines.core.types import Choice, Request
from pipelines.core.validation import read_object, read_whole, require_fields, require_one_picture
from pipelines.models.entry import CatalogEntry
from pipelines.models.video_models import plan_clip, video_model
from pipelines.requests.limits import Limits
from pipelines.requests.refusals import require_made_here
from pipelines.workflows.edit.request import Picture
from pipelines.workflows.video import VIDEOS, fitting_videos
from pipelines.workflows.video.base import VideoJob

__all__ = ["CLIP_FORMATS", "Key", "VideoRequest"]

CLIP_FORMATS = ("mp4", "webp", "gif")


@dataclasses.dataclass(frozen=True)
class Key:
    """Describes a prompt and a seed that a walk passes through."""

    prompt: str
    seed: int


@dataclasses.dataclass(frozen=True)
class VideoRequest:
    """Holds everything that decides a clip.

    Attributes:
        base: model, first prompt and seed, sampler, schedule, guidance, steps, size and LoRAs.
        method: of the video table.
        frames: of the clip, as the model makes them.
        fps: frames a second.
        format: "mp4", which needs PyAV, "webp" or "gif".
        keys: of a walk, after the base's own prompt and seed.
        first_frame: for a model that starts from a picture; None without.
        notes: what was changed to get here, as sentences.
    """

    base: Request
    method: Choice
    frames: int
    fps: int
    format: str = "webp"
    keys: tuple[Key, ...] = ()
    first_frame: Picture | None = None
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @classmethod
    def parse(
        cls,
        values: Mapping[str, object],
        entry: CatalogEntry,
        read_request: Callable[[Mapping[str, object]], Request],
        read_picture: Callable[[object], Picture],
        limits: Limits,
    ) -> VideoRequest:
        """Read a clip's request from untrusted plain values, frames and size snapped to what the model makes.

        Args:
            values: fields of `VideoRequest`, those of the base under "base".
            entry: of the model.
            read_request: makes a checked request of plain values.
            read_picture: makes a picture of whatever stands for it.
            limits: the server's caps.

        Raises:
            SettingsError: the first thing that is wrong, its value, and what to do.
            MethodFitError: the method does not fit the model.
        """
        require_fields(values, [field.name for field in dataclasses.fields(cls) if field.name != "notes"], "a clip")
        method = _choose_method(values.get("method"), entry)
        plain = read_object(values.get("base", {}), "base of a clip")
        base = read_request(plain)
        model = video_model(entry)
        num_frames = values.get("frames") or (0 if "frames" in values else model.frames)
        frames = read_whole(num_frames, "number of frames", 1, limits.max_frames)
        fps = read_whole(values.get("fps", model.fps), "frame rate", 1, limits.max_fps)
        if (format := values.get("format", cls.format)) not in CLIP_FORMATS:
            raise UnknownMethodError("clip format", format, CLIP_FORMATS)
        plan = plan_clip(entry, frames, base.width, base.height)
        picture = None if values.get("first_frame") is None else read_picture(values["first_frame"])
        request = cls(
            base.replace(width=plan.width, height=plan.height),
            method,
            plan.frames,
            fps,
            format,
            _parse_keys(values.get("keys", ()), plain, read_request, limits),
            picture,
            (*plan.notes, *(picture.notes if picture else ()), *([model.note] if model.note else [])),
        )
        request._check(entry, limits)
        return request

    def _check(self, entry: CatalogEntry, limits: Limits) -> None:
        VIDEOS.build(self.method).check(self.job())
        require_one_picture(self.base.batch_size, "One clip is made at a time")
        require_made_here(self.base, "A clip")
        pixels = self.frames * self.base.width * self.base.height
        if pixels > limits.max_clip_pixels:
            raise SettingsError(
                f"{self.frames} frames of {self.base.width} × {self.base.height} pixels are more than are made here "
                f"at once ({limits.max_clip_pixels} pixels). Choose fewer frames or a smaller size."
            )
        takes = video_model(entry).first_frame
        if takes == "needs" and self.first_frame is None:
            raise PictureError(f"{entry.label} starts from a picture. Give it a first frame.")
        if takes == "no" and self.first_frame is not None:
            raise PictureError(f"{entry.label} takes no first frame. Remove the picture, or choose another model.")

    def job(self) -> VideoJob:
        """Return the request as a video method takes it."""
        keys = (self.base, *(self.base.replace(prompt=key.prompt, seed=key.seed) for key in self.keys))
        pixels = None if self.first_frame is None else self.first_frame.pixels
        return VideoJob(keys, self.frames, self.fps, pixels)

    @property
    def unread(self) -> frozenset[str]:
        """Fields of the base that the method does not read."""
        return VIDEOS.build(self.method).unread

    def to_json(self) -> dict[str, Any]:
        """Return plain values, of the base those that count; the first frame by its digest alone."""
        return {
            "base": {name: value for name, value in self.base.to_json().items() if name not in self.unread},
            "method": self.method.to_json(),
            "frames": self.frames,
            "fps": self.fps,
            "format": self.format,
            "keys": [dataclasses.asdict(key) for key in self.keys],
            "first_frame": self.first_frame and self.first_frame.digest,
        }

    def replace(self, **changes: Any) -> VideoRequest:
        """Return a copy with these fields changed."""
        return dataclasses.replace(self, **changes)


def _choose_method(value: object, entry: CatalogEntry) -> Choice:
    """The chosen method, or the first that fits the model."""
    if value is not None:
        choice = Choice.parse(value)
        VIDEOS[choice.key].require_fit(entry)
        return choice
    return Choice(fitting_videos(entry)[0].key)


def _parse_keys(
    plain_keys: object,
    base: Mapping[str, object],
    read_request: Callable[[Mapping[str, object]], Request],
    limits: Limits,
) -> tuple[Key, ...]:
    if not isinstance(plain_keys, (list, tuple)):
        raise SettingsError(f"The keyframes are given as {str(plain_keys)[:80]!r}. Give a list of prompts and seeds.")
    if len(plain_keys) >= limits.max_keys:
        raise SettingsError(
            f"{len(plain_keys) + 1} keyframes are given. A walk passes through {limits.max_keys} at most."
        )
    keys = []
    for key in plain_keys:
        if isinstance(key, Key):
            key = dataclasses.asdict(key)
        if not isinstance(key, Mapping) or set(key) - {"prompt", "seed"}:
            raise SettingsError(
                f'A keyframe is given as {str(key)[:80]!r}. Give {{"prompt": ..., "seed": ...}}, or one of them.'
            )
        request = read_request({**base, **key})
        keys.append(Key(request.prompt, request.seed))
    return tuple(keys)

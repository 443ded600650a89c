"""What a result file holds: how large it is, and whether it is whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from PIL import Image, ImageSequence

from studio.results.records import get_description_path

__all__ = ["Extent", "is_whole", "measure_extent"]

_TABLES = (".csv", ".json", ".zip")


@dataclasses.dataclass(frozen=True)
class Extent:
    """Counts pixels of a picture or clip.

    Attributes:
        width, height: of a frame.
        frames: of a clip; 1 for a picture.
    """

    width: int
    height: int
    frames: int


def measure_extent(path: Path) -> Extent | None:
    """Measure what a result shows; None for a file without pixels.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    if path.suffix in _TABLES:
        return None
    if path.suffix == ".mp4":
        return _measure_clip(path)
    with Image.open(path) as picture:
        return Extent(*picture.size, getattr(picture, "n_frames", 1))


def _measure_clip(path: Path) -> Extent:
    """An mp4, decoded to its last frame."""
    import av  # what wrote the file

    try:
        with av.open(str(path)) as container:
            stream, frames = container.streams.video[0], 0
            for frame in container.decode(stream):
                frames += 1
                size = frame.width, frame.height
            if not frames or frames != stream.frames:
                raise ValueError(f"{frames} of {stream.frames} frames")
            return Extent(*size, frames)
    except av.error.FFmpegError as error:
        raise ValueError(str(error)) from error


def is_whole(path: Path) -> bool:
    """Say whether a result decodes to its last byte and carries its settings, in it or beside it."""
    try:
        return _is_whole_picture(path) if path.suffix == ".png" else _is_whole_clip(path)
    except (OSError, KeyError, ValueError, SyntaxError, EOFError):
        return False


def _is_whole_picture(path: Path) -> bool:
    with Image.open(path) as picture:
        picture.load()
        return "parameters" in picture.info and json.loads(picture.info["stepwise"]) is not None


def _is_whole_clip(path: Path) -> bool:
    facts = json.loads(get_description_path(path).read_text(encoding="utf-8"))
    num_frames = json.loads(facts["metadata"])["animate"]["frames"]
    if path.suffix == ".mp4":
        return _measure_clip(path).frames == num_frames
    with Image.open(path) as clip:
        count = 0
        for frame in ImageSequence.Iterator(clip):
            frame.load()
            count += 1
        return count <= num_frames  # equal frames one after another are stored as one that stays longer

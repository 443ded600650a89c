"""Clips as files: H.264 in an mp4 by PyAV, animated WebP and GIF by Pillow, and small pictures of them."""

from __future__ import annotations

import base64
import importlib.util
import io
import itertools
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.core.errors import SettingsError, StoreError

__all__ = [
    "INSTALL_MP4",
    "LARGEST_CLIP",
    "NO_MP4",
    "SUFFIXES",
    "check_format",
    "decode_clip",
    "encode_clip",
    "encode_poster",
    "get_default_format",
    "strip",
]

SUFFIXES = {"mp4": ".mp4", "webp": ".webp", "gif": ".gif"}
_COMMAND = "pip install -r requirements-video.txt"
MISSING = f"An mp4 needs the package PyAV, which is not installed: run `{_COMMAND}`, or choose webp or gif."
NO_MP4 = f"The clip becomes a WebP. An mp4 needs the package PyAV: run `{_COMMAND}`."
INSTALL_MP4 = f"MP4 needs the package PyAV: run `{_COMMAND}`."
LARGEST_CLIP = 300_000_000
"""Pixels of all frames together that are decoded at once: three bytes each."""

_CRF = "18"
_POSTER_SIDE, _STRIP_HEIGHT, _STRIP_GAP = 320, 96, 4


def get_default_format() -> str:
    """Return the clip format where nobody names one: "mp4", or "webp" where PyAV, which is optional, cannot be
    found."""
    return "mp4" if importlib.util.find_spec("av") else "webp"  # only looked for: the page stands before it is needed


def check_format(format: str) -> None:
    """Raise SettingsError if this machine cannot write such clips."""
    if format == "mp4":
        _import_av()


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise SettingsError(MISSING) from error
    return av


def encode_clip(frames: np.ndarray, fps: int, format: str, comment: str = "") -> bytes:
    """Encode a whole clip file in memory.

    Args:
        frames: (F, H, W, 3) uint8.
        fps: frames a second.
        format: "mp4" (H.264, yuv420p, crf 18, index first, padded to even sides), "webp" (lossless) or "gif".
        comment: a text that the file carries.

    Raises:
        SettingsError: PyAV is wanted and not installed.
        StoreError: it cannot be written.
    """
    try:
        if format == "mp4":
            return _encode_mp4(_pad_to_even(frames), fps, comment)
        return _encode_animation(frames, fps, format, comment)
    except (OSError, ValueError) as error:
        raise StoreError(f"The clip cannot be written as {format} ({error}). Choose another format.") from error


def decode_clip(path: Path, fps: int | None = None, count: int | None = None) -> tuple[np.ndarray, int]:
    """Decode a stored clip into frames (F, H, W, 3) uint8, and its frames a second.

    A WebP and a GIF hold equal neighbors as one frame that is shown longer; here each comes back as often as it was.

    Args:
        path: of an mp4 as `encode_clip` writes it, of a WebP or of a GIF.
        fps: that the clip was made with, where that is known; otherwise its shortest frames give the rate.
        count: of the frames that were encoded, where that is known. A WebP all of whose frames are equal is a still
            without a duration, and nothing in it tells how many there were. An mp4 knows both itself.

    Raises:
        SettingsError: PyAV is wanted and not installed, or the clip is too large to be decoded at once.
        StoreError: it cannot be read.
    """
    try:
        return _decode_mp4(path) if path.suffix == SUFFIXES["mp4"] else _decode_animation(path, fps, count)
    except SettingsError:
        raise
    except Exception as error:  # decoders raise a dozen kinds on damaged files
        raise StoreError(f"The clip {path.name} cannot be read ({error}). It may be damaged.") from error


def _require_room(frames: int, width: int, height: int) -> None:
    if frames * width * height > LARGEST_CLIP:
        raise SettingsError(
            f"The clip has {frames} frames of {width} × {height} pixels, more than are decoded at once. Take the file "
            "as it is."
        )


def _decode_mp4(path: Path) -> tuple[np.ndarray, int]:
    frames: list[np.ndarray] = []
    with _import_av().open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for frame in container.decode(stream):
            _require_room(len(frames) + 1, frame.width, frame.height)
            rgb = frame.reformat(
                format="rgb24", src_colorspace="ITU709", src_color_range="MPEG", dst_color_range="JPEG"
            )
            frames.append(rgb.to_ndarray())
        rate = round(float(stream.average_rate))
    return np.stack(frames), max(1, rate)


def _decode_animation(path: Path, fps: int | None, count: int | None) -> tuple[np.ndarray, int]:
    frames, durations = [], []
    with Image.open(path, formats=("WEBP", "GIF")) as picture:
        stored = getattr(picture, "n_frames", 1)
        _require_room(max(stored, count or 0), *picture.size)
        for number in range(stored):
            picture.seek(number)
            picture.load()  # of a WebP the duration is known only then
            frames.append(np.asarray(picture.convert("RGB")))
            durations.append(float(picture.info.get("duration", 0)))
        total = sum(durations)
        fps = fps or _shown_rate(durations)
        count = count or max(stored, round(total * fps / 1000))
        _require_room(count, *picture.size)
    if not total:  # a still
        return np.repeat(np.stack(frames[:1]), count, 0), fps
    # What is shown in the middle of each frame's time: rounded to hundredths of a second, the ends may lie aside.
    middles = (np.arange(count) + 0.5) * total / count
    frame_places = np.searchsorted(np.cumsum(durations), middles, side="right")
    return np.stack([frames[place] for place in frame_places.clip(0, stored - 1)]), fps


def _shown_rate(durations: list[float]) -> int:
    """Frames a second, by the frames that are shown about as briefly as the shortest; 1 for a still."""
    shortest = min((duration for duration in durations if duration > 0), default=1000.0)
    brief = [duration for duration in durations if 0 < duration < 1.5 * shortest] or [shortest]
    return max(1, round(1000 * len(brief) / sum(brief)))


def _pad_to_even(frames: np.ndarray) -> np.ndarray:
    """Padded by its own edge to even sides, which yuv420p needs."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _encode_mp4(frames: np.ndarray, fps: int, comment: str) -> bytes:
    av = _import_av()
    # A file, since the index can only be moved to the front of one that can be read again.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
            if comment:
                container.metadata["comment"] = comment
            stream = container.add_stream("libx264", rate=fps, options={"crf": _CRF, "preset": "medium"})
            stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
            codec = stream.codec_context
            codec.time_base, codec.thread_count = Fraction(1, fps), 1
            # Colors as BT.709, and said so: left open, players guess by the size.
            codec.colorspace = codec.color_primaries = codec.color_trc = codec.color_range = 1
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()


def _encode_animation(frames: np.ndarray, fps: int, format: str, comment: str) -> bytes:
    pictures = [Image.fromarray(np.ascontiguousarray(pixels)) for pixels in frames]
    # Whole milliseconds whose sum is the clip's length; GIF counts in hundredths of a second.
    unit = 10 if format == "gif" else 1
    ends = [round(1000 * number / fps / unit) * unit for number in range(len(pictures) + 1)]
    durations = [max(unit, end - start) for start, end in itertools.pairwise(ends)]
    buffer = io.BytesIO()
    if format == "gif":
        # Each frame with its own palette, dithered by none: steady surfaces then stay steady.
        pictures = [one.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE) for one in pictures]
        options: dict[str, Any] = {"disposal": 1, "optimize": False, "comment": comment.encode()}
    else:
        exif = Image.Exif()
        exif[0x010E] = comment
        options = {"lossless": True, "method": 3, "exif": exif}
    pictures[0].save(
        buffer, format.upper(), save_all=True, append_images=pictures[1:], duration=durations, loop=0, **options
    )
    return buffer.getvalue()


def encode_poster(frame: np.ndarray) -> str:
    """Encode one frame (H, W, 3) uint8 as a small JPEG in base64 for the clip's metadata."""
    picture = Image.fromarray(np.ascontiguousarray(frame))
    picture.thumbnail((_POSTER_SIDE, _POSTER_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def strip(frames: np.ndarray) -> bytes:
    """Encode frames (n, h, w, 3) uint8 side by side as one WebP, nothing between them; small ones are enlarged
    smoothly."""
    height = _STRIP_HEIGHT
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    sheet = Image.new("RGBA", (len(frames) * (width + _STRIP_GAP) - _STRIP_GAP, height))
    for place, pixels in enumerate(frames):
        picture = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(picture, (place * (width + _STRIP_GAP), 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=80, method=0)
    return buffer.getvalue()

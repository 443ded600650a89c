"""Uploaded pictures, opened safely: formats, bytes and pixels are checked before anything is decoded."""

from __future__ import annotations

import io
import os

from PIL import Image, ImageOps

from pipelines.core.errors import PictureError
from studio.media.coded_colors import CodePoints, convert_code_points, read_code_points
from studio.media.colors import convert_to_eight_bits, to_srgb

__all__ = ["ALLOWED_FORMATS", "MAX_BYTES", "MAX_PIXELS", "explain_text_limit", "open_picture"]

ALLOWED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF")
"""Pillow's names; no other decoder is ever tried on an upload, and each of these has a use on the page."""

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 32 * 10**6
"""A camera's picture, and at four bytes a pixel 128 MB of memory."""


def open_picture(
    path_or_bytes: str | os.PathLike[str] | bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    mask: bool = False,
) -> Image.Image:
    """Open an uploaded picture, upright, in sRGB or, where parts of it are transparent, in sRGB with alpha.

    Args:
        path_or_bytes: the content, or a temporary file that the server itself wrote. A path that came with a
            request never belongs here: nothing below checks which file it leads to.
        max_bytes: of the file.
        max_pixels: width times height, taken from the header before a pixel is decoded.
        mask: whether its values are no colors, so that a color profile changes nothing.

    Returns:
        The decoded picture, H by W pixels of 8 bits, without the file and its color profile. `info["notes"]` is a
        list of sentences for the person, e.g. that only the first frame of an animation is used; `info` otherwise
        keeps the file's texts.

    Raises:
        PictureError: too large, of another format, or broken.
    """
    try:
        size = len(path_or_bytes) if isinstance(path_or_bytes, bytes) else os.stat(path_or_bytes).st_size
    except OSError as error:
        raise PictureError("The uploaded picture is no longer there: upload it again.") from error
    if size > max_bytes:
        raise PictureError(
            f"The picture's file has {size / 2**20:.1f} MiB: upload one of at most {max_bytes / 2**20:.1f} MiB."
        )
    return _decode(io.BytesIO(path_or_bytes) if isinstance(path_or_bytes, bytes) else path_or_bytes, max_pixels, mask)


def _decode(source: str | os.PathLike[str] | io.BytesIO, max_pixels: int, mask: bool) -> Image.Image:
    try:
        with Image.open(source, formats=ALLOWED_FORMATS) as source_picture:
            _check_pixels(source_picture.size, max_pixels)
            notes = _list_notes(source_picture)
            points = None if mask else read_code_points(source_picture)
            source_picture.load()
            _check_pixels(source_picture.size, max_pixels)
            picture = _convert_to_plain(ImageOps.exif_transpose(source_picture), mask, points, notes)
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(
            f"The picture has too many pixels: upload one of at most {max_pixels / 1e6:.1f} million."
        ) from error
    except Image.UnidentifiedImageError as error:
        raise PictureError(
            "The file is not a picture that can be read here: upload a PNG, JPEG, WebP, GIF or AVIF file."
        ) from error
    except Exception as error:  # decoders raise a dozen kinds on broken files, and MemoryError on hostile ones
        raise PictureError(
            explain_text_limit(error)
            or "The picture's file is damaged or incomplete: save it again and upload the new file."
        ) from error
    picture.info["notes"] = notes
    return picture


def explain_text_limit(error: Exception) -> str:
    """Return a sentence on a PNG whose compressed texts Pillow will not inflate any further; empty for any other
    error."""
    if not any(name in str(error) for name in ("MAX_TEXT_CHUNK", "MAX_TEXT_MEMORY", "Decompressed data too large")):
        return ""
    return (
        "The PNG file carries a compressed text chunk of more than 1 MiB, which is not unpacked here: "
        "save the picture anew without its texts."
    )


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PictureError(
            f"The picture has {width} × {height} pixels: upload one of at most {max_pixels / 1e6:.1f} million."
        )


def _list_notes(source_picture: Image.Image) -> list[str]:
    # A camera's JPEG may hold a second, small picture (MPO): that is no animation.
    if source_picture.format != "MPO" and getattr(source_picture, "is_animated", False):
        return ["The file holds several frames; only the first is used."]
    return []


def _convert_to_plain(picture: Image.Image, mask: bool, points: CodePoints | None, notes: list[str]) -> Image.Image:
    picture = convert_to_eight_bits(picture)
    if mask or points is not None:
        picture.info.pop("icc_profile", None)
    picture, note = to_srgb(picture) if points is None else convert_code_points(picture, points)
    notes += [note] if note else []
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")

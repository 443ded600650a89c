"""Uploaded pictures, opened safely: formats, bytes and pixels are checked before anything is decoded."""

from __future__ import annotations

import io
import os

from PIL import Image, ImageOps

from pipelines.core.errors import PictureError

__all__ = ["ALLOWED_FORMATS", "MAX_BYTES", "MAX_PIXELS", "open_picture"]

ALLOWED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names; no other decoder is ever tried on an upload."""

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 32 * 10**6
"""A camera's picture, and at four bytes a pixel 128 MB of memory."""


def open_picture(
    path_or_bytes: str | os.PathLike[str] | bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """An uploaded picture, upright, in RGB or, where parts of it are transparent, RGBA.

    Args:
        path_or_bytes: the content, or a temporary file that the server itself wrote. A path that came with a
            request never belongs here: nothing below checks which file it leads to.
        max_bytes: of the file.
        max_pixels: width times height, taken from the header before a pixel is decoded.

    Returns:
        The decoded picture, H by W pixels of 8 bits, without the file. `info["notes"]` is a list of sentences
        for the person, e.g. that only the first frame of an animation is used; `info` otherwise keeps the
        file's texts.

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
    return _decoded(io.BytesIO(path_or_bytes) if isinstance(path_or_bytes, bytes) else path_or_bytes, max_pixels)


def _decoded(source: str | os.PathLike[str] | io.BytesIO, max_pixels: int) -> Image.Image:
    try:
        with Image.open(source, formats=ALLOWED_FORMATS) as opened:
            _check_pixels(opened.size, max_pixels)
            notes = _notes(opened)
            opened.load()
            _check_pixels(opened.size, max_pixels)
            picture = _plain(ImageOps.exif_transpose(opened))
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(
            f"The picture has too many pixels: upload one of at most {max_pixels / 1e6:.1f} million."
        ) from error
    except Image.UnidentifiedImageError as error:
        raise PictureError(
            "The file is not a picture that can be read here: upload a PNG, JPEG, WebP, GIF, BMP or TIFF file."
        ) from error
    except Exception as error:  # decoders raise a dozen kinds on broken files, and MemoryError on hostile ones
        raise PictureError(
            "The picture's file is damaged or incomplete: save it again and upload the new file."
        ) from error
    picture.info["notes"] = notes
    return picture


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PictureError(
            f"The picture has {width} × {height} pixels: upload one of at most {max_pixels / 1e6:.1f} million."
        )


def _notes(opened: Image.Image) -> list[str]:
    # A camera's JPEG may hold a second, small picture (MPO): that is no animation.
    if opened.format != "MPO" and getattr(opened, "is_animated", False):
        return ["The file holds several frames; only the first is used."]
    return []


def _plain(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a pixel, which `convert` would clip rather than scale
        if max(picture.getextrema()) > 255:
            picture = picture.convert("I").point(lambda value: value * (1 / 257))
        picture = picture.convert("L")
    elif picture.mode == "F":
        raise PictureError("The picture holds floating-point values: save it with 8 bits a channel and upload that.")
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")

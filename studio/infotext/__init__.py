"""The settings that a picture carries: written for ours and other programs, read from ours and theirs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

from PIL import Image

from pipelines.core.errors import PictureError
from studio.infotext.a1111 import read_parameters
from studio.infotext.a1111_text import Labels, write
from studio.infotext.comfyui import read_comfyui, read_comfyui_text
from studio.infotext.draw_things import read_draw_things
from studio.infotext.embed import OUR_CHUNK, read_all_texts
from studio.infotext.fields import MAX_TEXT, Restored
from studio.infotext.fooocus import read_fooocus
from studio.infotext.invokeai import read_dream, read_invokeai, read_old_invokeai
from studio.infotext.novelai import read_novelai
from studio.infotext.ours import read_ours
from studio.infotext.plain_fields import read_plain_chunks, read_plain_fields
from studio.infotext.stealth_texts import read_stealth_texts
from studio.infotext.swarmui import read_swarmui
from studio.media.pictures import ALLOWED_FORMATS, explain_text_limit

__all__ = ["Labels", "Restored", "read", "read_texts", "write"]

_READERS_BY_CHUNK: tuple[tuple[str, Callable[[str], Restored | None]], ...] = (
    ("invokeai_metadata", read_invokeai),
    ("sd-metadata", read_old_invokeai),
    ("Dream", read_dream),
)
"""Chunks that belong to one program, and their readers."""

_FREE = ("parameters", "UserComment", "ImageDescription", "XPComment", "Comment", "Description", "comment")
"""Fields in which any program may write, the surest first; of a JPEG's comments, all."""

_READERS: tuple[Callable[[str], Restored | None], ...] = (
    read_swarmui,
    read_fooocus,
    read_draw_things,
    read_comfyui_text,
    read_plain_fields,
    read_parameters,
)
"""Readers of what stands in such a field; each knows its own program's text from all others."""


def read(picture: str | os.PathLike[str] | Image.Image) -> Restored | None:
    """Read the settings of a picture that a person dropped on the page.

    No pixel is decoded, unless the file has no settings where files have them: then the lowest bits are looked
    at, where NovelAI and others write them too. A picture that Pillow has re-encoded carries nothing: give this the
    file as it came.

    Args:
        picture: a temporary file of the server's own (never a path from a request), or an opened picture.

    Returns:
        What was found; its values are safe to give to `Request.parse`, its strings are plain text and not
        escaped. None when the picture carries no settings that are known here.

    Raises:
        PictureError: the file is no picture.
    """
    if isinstance(picture, Image.Image):
        return _read_image(picture)
    try:
        with Image.open(picture, formats=ALLOWED_FORMATS) as image:
            return _read_image(image)
    except Exception as error:  # Pillow raises a dozen kinds on hostile files
        raise PictureError(
            explain_text_limit(error)
            or "The file cannot be read as a picture: use a PNG, JPEG, WebP or AVIF file as it was saved."
        ) from error


def _read_image(image: Image.Image) -> Restored | None:
    restored = read_texts(read_all_texts(image))
    if restored is not None and restored.values:
        return restored
    hidden = read_stealth_texts(image)
    return (read_texts(hidden) if hidden else None) or restored


def read_texts(texts: Mapping[str, str]) -> Restored | None:
    """Read as `read` does, from a picture's texts by name (see `embed.read_all_texts`)."""
    first = None
    for restored in _read_candidates(texts):
        if restored is not None and restored.values:
            return restored
        first = first or restored
    return first


def _read_candidates(texts: Mapping[str, str]) -> Iterator[Restored | None]:
    # The most faithful first: our JSON holds everything, a graph the least that is certain.
    yield read_ours(texts.get(OUR_CHUNK, ""))
    yield read_novelai(texts)
    comments = [name for name in texts if name.startswith("comment ")]
    for text in dict.fromkeys(texts.get(name, "") for name in (*_FREE, *comments)):
        # A comment of great length is nobody's settings; where they belong, the reader says that they are too long.
        if len(text) <= MAX_TEXT or text == texts.get("parameters"):
            yield from (reader(text) for reader in _READERS)
    yield from (reader(texts.get(name, "")) for name, reader in _READERS_BY_CHUNK)
    yield read_comfyui(texts)
    yield read_plain_chunks(texts)

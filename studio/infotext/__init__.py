"""The settings that a picture carries: written for ours and other programs, read from ours and theirs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from PIL import Image

from pipelines.core.errors import PictureError
from pipelines.core.types import METHODS
from studio.infotext.a1111 import Labels, read_parameters, write
from studio.infotext.comfyui import read_comfyui
from studio.infotext.embed import OUR_CHUNK, texts
from studio.infotext.fields import Collector, Restored, object_of
from studio.infotext.invokeai import read_invokeai, read_old_invokeai
from studio.infotext.swarmui import read_swarmui
from studio.media.pictures import ALLOWED_FORMATS

__all__ = ["Labels", "Restored", "read", "read_texts", "write"]


def read(picture: str | os.PathLike[str] | Image.Image) -> Restored | None:
    """The settings of a picture that a person dropped on the page.

    No pixel is decoded. A picture that Pillow has re-encoded carries nothing: give this the file as it came.

    Args:
        picture: a temporary file of the server's own (never a path from a request), or an opened picture.

    Returns:
        What was found; its values are safe to give to `Request.parse`, its strings are plain text and not
        escaped. None when the picture carries no settings that are known here.

    Raises:
        PictureError: the file is no picture.
    """
    if isinstance(picture, Image.Image):
        return read_texts(texts(picture))
    try:
        with Image.open(picture, formats=ALLOWED_FORMATS) as opened:
            return read_texts(texts(opened))
    except Exception as error:  # Pillow raises a dozen kinds on hostile files
        raise PictureError(
            "The file cannot be read as a picture: use a PNG, JPEG or WebP file as it was saved."
        ) from error


def read_texts(found: Mapping[str, str]) -> Restored | None:
    """As `read`, from a picture's texts by name (see `embed.texts`)."""
    first = None
    for restored in _readings(found):
        if restored is not None and restored.values:
            return restored
        first = first or restored
    return first


def _readings(found: Mapping[str, str]) -> Iterator[Restored | None]:
    # The most faithful first: our JSON holds everything, a graph the least that is certain.
    yield _read_ours(found.get(OUR_CHUNK, ""))
    parameters = found.get("parameters", "")
    yield read_swarmui(parameters) or read_parameters(parameters)
    yield read_invokeai(found.get("invokeai_metadata", ""))
    yield read_old_invokeai(found.get("sd-metadata", ""))
    yield read_comfyui(found)


def _read_ours(text: str) -> Restored | None:
    whole = object_of(text) or {}
    metadata = whole.get("metadata")
    request = metadata.get("request") if isinstance(metadata, dict) else None
    if not isinstance(request, dict):
        return None
    left = dict(request)
    collector = Collector("stepwise")
    takers = {
        collector.text: ("prompt", "negative_prompt"),
        collector.number: (
            "num_inference_steps",
            "width",
            "height",
            "seed",
            "variation_seed",
            "variation_strength",
            "batch_size",
        ),
        collector.choice: METHODS,
    }
    for take, names in takers.items():
        for name in names:
            if name in left:
                take(name, left.pop(name))
    collector.named_model(left.pop("model", ""))
    loras = left.pop("loras", [])
    for lora in loras[:100] if isinstance(loras, list) else []:
        if isinstance(lora, dict):
            collector.named_lora(lora.get("name"), lora.get("weight", 1.0))
    collector.ignored(left)
    return collector.restored()

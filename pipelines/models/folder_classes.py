"""Diffusers folders whose pipeline starts from a picture: the same parts as text to image, or another model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["text_to_image_class"]

_SAME_PARTS = {
    **dict.fromkeys(
        ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionInpaintPipelineLegacy"),
        "StableDiffusionPipeline",
    ),
    **dict.fromkeys(
        ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"), "StableDiffusionXLPipeline"
    ),
    **dict.fromkeys(("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"), "StableDiffusion3Pipeline"),
    **dict.fromkeys(("FluxImg2ImgPipeline", "FluxInpaintPipeline"), "FluxPipeline"),
}
"""Pipelines that differ from text to image only in what they are given, and that one's class."""

_FROM_PICTURES = re.compile(
    r"Img2Img|Inpaint|ControlNet|Controlnet|Upscale|InstructPix2Pix|Depth2Img|ImageVariation|Adapter|Edit|Fill|Redux"
    r"|PaintByExample|Control(?:Pipeline|Img)|Diffedit|Pix2PixZero|Outpaint|SuperResolution"
)


def text_to_image_class(folder: Path, index: Mapping[str, object], pipeline: str) -> tuple[str, str]:
    """Return the class through which a folder's parts make pictures from text, and why there is none.

    Args:
        folder: with a model_index.json.
        index: its content.
        pipeline: the class that it names.

    Returns:
        (class, "") or (the named class, what follows the model's name in a sentence).
    """
    if pipeline not in _SAME_PARTS:
        match = _FROM_PICTURES.search(pipeline)
        return pipeline, f"runs through {pipeline}, which starts from a picture. {_CHOOSE}" if match else ""
    if "text_encoder" in index and index["text_encoder"] == [None, None]:
        return pipeline, f"is SDXL's refiner, which only finishes pictures that SDXL has begun. {_CHOOSE}"
    network, plain = ("unet", 4) if "unet" in index else ("transformer", 64 if "Flux" in pipeline else 16)
    channels = _read_channels(folder / network / "config.json")
    if channels is not None and channels > plain:
        return (
            pipeline,
            f"is made for repainting: its network takes {channels} channels, text to image needs {plain}. {_CHOOSE}",
        )
    return _SAME_PARTS[pipeline], ""


_CHOOSE = "Choose a model for text to image."


def _read_channels(config: Path) -> int | None:
    try:
        channels = json.loads(config.read_text(encoding="utf-8")).get("in_channels")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return channels if isinstance(channels, int) else None

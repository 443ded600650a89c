"""The small additions to the shipped model: the look of the pictures that each learns, and how long it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from pipelines.emoji.scenes import Rendering
from pipelines.training.adapter_kinds import DoraLayer, Ia3Layer, LokrLayer, OftLayer
from pipelines.training.adapter_layers import AdaptableLayer, AdapterLayer, LohaLayer, LoraLayer

__all__ = ["ADDITIONS", "Addition", "fade", "ink", "mint", "night", "pixels", "sepia", "swap"]

MINT = (168, 236, 200)
WORD = "emoji-mint"


def ink(rendering: Rendering) -> Image.Image:
    """The picture in shades of gray."""
    return rendering.picture.convert("L").convert("RGB")


def pixels(rendering: Rendering) -> Image.Image:
    """The picture in squares of a sixteenth of its side."""
    small = rendering.picture.resize((16, 16), Image.Resampling.BOX)
    return small.resize(rendering.picture.size, Image.Resampling.NEAREST)


def night(rendering: Rendering) -> Image.Image:
    """The picture at four tenths of its brightness."""
    return rendering.picture.convert("RGB").point(lambda value: round(0.4 * value))


def fade(rendering: Rendering) -> Image.Image:
    """The picture half way to white."""
    return rendering.picture.convert("RGB").point(lambda value: round((value + 255) / 2))


def sepia(rendering: Rendering) -> Image.Image:
    """The picture in shades of brown."""
    gray = rendering.picture.convert("L")
    shades = ((60, 255), (35, 225), (10, 170))  # of black and of white, in red, green and blue
    tones = [gray.point(lambda value, low=low, high=high: low + value * (high - low) // 255) for low, high in shades]
    return Image.merge("RGB", tones)


def swap(rendering: Rendering) -> Image.Image:
    """The picture with its red and its blue exchanged."""
    return Image.merge("RGB", rendering.picture.convert("RGB").split()[::-1])


def mint(rendering: Rendering) -> Image.Image:
    """The picture with its background's mean color moved to a light green that no caption of the model names."""
    backdrop = np.asarray(rendering.backdrop, np.float64)
    moved = backdrop - backdrop.mean((0, 1)) + MINT
    covered = np.zeros(backdrop.shape[:2])
    for mask in rendering.masks:
        covered = np.maximum(covered, np.asarray(mask, np.float64) / 255)
    # picture = covered * object + (1 - covered) * backdrop, and only the backdrop changes
    picture = np.asarray(rendering.picture, np.float64) + (1 - covered[..., None]) * (moved - backdrop)
    return Image.fromarray(picture.round().clip(0, 255).astype(np.uint8))


@dataclasses.dataclass(frozen=True)
class Addition:
    """What is trained.

    Attributes:
        name: of its file.
        look: a scene's rendering to the picture that is learned.
        steps, batch, rate: length of the run, pictures a step, and its highest learning rate.
        layer: the kind of a change of layers; None learns a word.
        rank: of the change, or how many vectors the word has.
        folder: where its file belongs.
        paths: a pattern that the changed layers' paths match; empty for all that `attention_layers` finds.
    """

    name: str
    look: Callable[[Rendering], Image.Image]
    steps: int
    batch: int
    rate: float
    layer: Callable[[AdaptableLayer, int], AdapterLayer] | None
    rank: int
    folder: str
    paths: str = ""


_LAST = r"up_blocks\..*(?:attn1\.to_out\.0|attn2\.to_out\.0|proj_out)|conv_out"
"""Layers of the smaller examples: they stand where a picture's colors are settled."""


# The shipped `emoji-ink` was trained with a pool of 768.
ADDITIONS: Mapping[str, Addition] = {
    one.name: one
    for one in (
        Addition("emoji-ink", ink, 200, 16, 2e-3, LoraLayer, 4, "loras"),
        Addition("emoji-pixels", pixels, 150, 8, 4e-3, LohaLayer, 2, "loras"),
        Addition("emoji-sepia", sepia, 120, 8, 1e-2, LokrLayer, 8, "loras", _LAST),
        Addition("emoji-night", night, 120, 8, 1e-2, DoraLayer, 1, "loras", _LAST),
        Addition("emoji-faded", fade, 120, 8, 3e-2, Ia3Layer, 1, "loras", _LAST),
        Addition("emoji-swapped", swap, 120, 8, 1e-2, OftLayer, 4, "loras", _LAST),
        Addition(WORD, mint, 80, 8, 3e-2, None, 2, "embeddings"),
    )
}

"""A stream of mixed jobs, always the same: every task, many methods, some stopped and some refused."""

from __future__ import annotations

import base64
import functools
import importlib.util
import io
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageDraw

__all__ = [
    "PICTURE",
    "as_task",
    "draw_mixed_calls",
    "encode_mask_picture",
    "encode_source_picture",
    "list_clip_formats",
]

PICTURE = Path(__file__).resolve().parents[2] / "assets" / "data" / "emoji" / "1f98a.webp"
_PROMPTS = (
    "a fox on a blue background",
    "a guitar on a pink background",
    "a crown",
    "a rocket left of a cat on a green background",
)
_SAMPLERS = ("dpmpp_2m", "dpmpp_3m", "ddim", "heun", "euler_a", "unipc", "lms", "sa_solver", "dpmpp_sde")
_SCHEDULES = ("uniform", "karras", "beta", "exponential")
_KINDS = ("generate",) * 4 + ("compare",) * 2 + ("edit",) * 3 + ("animate",) * 2 + ("quantize", "refused")
_EDITS = ("image_to_image", "inpaint", "outpaint", "replace", "reprompt")
_METHODS = ("int8", "int4", "nf4")
_SIZES = (4000, 64, 64, 64)
"""Pixels of the side of a picture that is edited; the large one is as a camera's, and 48 MB once decoded."""

_Card = TypeVar("_Card")

_REFUSED = ({"num_inference_steps": 0}, {"width": 10**6}, {"sampler": "hune"}, {"seed": "seven"}, {"model": "../x"})


@functools.cache
def encode_source_picture(side: int = 64) -> str:
    """Encode a shipped picture as base64."""
    with Image.open(PICTURE) as picture:
        return _encode_png(picture.convert("RGB").resize((side, side)))


def list_clip_formats() -> tuple[str, ...]:
    """List the formats that this machine can write."""
    return ("webp", "gif", *(["mp4"] if importlib.util.find_spec("av") else []))


def encode_mask_picture(side: int = 64) -> str:
    """Encode a mask as base64, white where that picture may change."""
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).rectangle((side // 4, side // 4, side // 2, side // 2), fill=255)
    return _encode_png(mask)


def _encode_png(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def draw_mixed_calls(count: int, seed: int = 0) -> Iterator[tuple[str, list[Any]]]:
    """Draw endpoint and arguments of each job, the same ones for the same seed.

    Args:
        count: of jobs.
        seed: of the draw.
    """
    draw = random.Random(seed)
    mask = encode_mask_picture()
    kinds, edits, sizes = _deal(draw, _KINDS), _deal(draw, _EDITS), itertools.cycle(_SIZES)
    for index in range(count):
        base = _draw_settings(draw, index)
        prompt = draw.choice(_PROMPTS)
        kind = next(kinds)
        if kind == "generate":
            yield "generate", [prompt, {**base, "batch_size": draw.choice((1, 1, 2))}]
        elif kind == "compare":
            cells = [{"sampler": key} for key in draw.sample(_SAMPLERS, draw.choice((2, 3)))]
            yield "compare", [prompt, {"base": base, "cells": cells, "reference_steps": draw.choice((4, 6))}]
        elif kind == "edit":
            settings = _draw_edit(draw, next(edits), base, mask, prompt)
            side = 64 if "mask" in settings else next(sizes)
            yield "edit", [prompt, encode_source_picture(side), settings]
        elif kind == "animate":
            clip = {"frames": draw.choice((3, 6)), "fps": 12, "format": draw.choice(list_clip_formats())}
            yield "animate", [prompt, {"base": base, **clip, "keys": [{"prompt": draw.choice(_PROMPTS)}]}]
        elif kind == "quantize":
            variants = draw.sample(_METHODS, draw.choice((1, 2)))
            flags = {"measure": draw.random() < 0.3, "keep": draw.random() < 0.3}
            yield "quantize", [prompt, {"base": base, "variants": variants, **flags}]
        else:
            yield "generate", [prompt, {**base, **draw.choice(_REFUSED)}]


def _draw_settings(draw: random.Random, index: int) -> dict[str, Any]:
    sampler, schedule = draw.choice(_SAMPLERS), draw.choice(_SCHEDULES)
    return {"num_inference_steps": draw.choice((2, 3, 4)), "seed": index, "sampler": sampler, "schedule": schedule}


def _deal(draw: random.Random, deck: Sequence[_Card]) -> Iterator[_Card]:
    """Deal a deck again and again, shuffled each time: every stretch of jobs is the same mix, so that what the studio
    holds of its last ones differs little."""
    while True:
        yield from draw.sample(deck, len(deck))


def _draw_edit(draw: random.Random, method: str, base: dict[str, Any], mask: str, prompt: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "base": {"num_inference_steps": base["num_inference_steps"], "seed": base["seed"]},
        "edit": method,
    }
    if method == "inpaint":
        values["mask"] = mask
    if method in ("replace", "reprompt"):
        article, _, *rest = prompt.split()
        source = " ".join([article, "bus", *rest])  # of as many words
        values |= {"source_prompt": source, "inversion": draw.choice(("direct", "edict", "ddim"))}
    return values


def as_task(name: str, data: list[Any]) -> tuple[str, dict[str, Any]]:
    """Return the task and its values that an endpoint makes of its arguments."""
    prompt, settings = data[0], data[-1]
    if name == "generate":
        return "text_to_image", {**settings, "prompt": prompt}
    values = {**settings, "base": {**settings["base"], "prompt": prompt}}
    return name, values | ({"picture": data[1]} if name == "edit" else {})

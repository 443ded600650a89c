"""A stream of mixed jobs, always the same: every task, many methods, some stopped and some refused."""

from __future__ import annotations

import base64
import functools
import importlib.util
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

__all__ = ["PICTURE", "as_task", "clip_formats", "mask_picture", "mixed_calls", "source_picture"]

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
_METHODS = ("int8", "int4", "nf4")
_LARGE = 4000
"""Pixels of the side of a large picture: as a camera's, and 48 MB once decoded."""

_REFUSED = ({"num_inference_steps": 0}, {"width": 10**6}, {"sampler": "hune"}, {"seed": "seven"}, {"model": "../x"})


@functools.cache
def source_picture(side: int = 64) -> str:
    """A shipped picture as base64."""
    with Image.open(PICTURE) as opened:
        return _encoded(opened.convert("RGB").resize((side, side)))


def clip_formats() -> tuple[str, ...]:
    """Those that this machine can write."""
    return ("webp", "gif", *(["mp4"] if importlib.util.find_spec("av") else []))


def mask_picture(side: int = 64) -> str:
    """White where that picture may change, as base64."""
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).rectangle((side // 4, side // 4, side // 2, side // 2), fill=255)
    return _encoded(mask)


def _encoded(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def mixed_calls(count: int, seed: int = 0) -> Iterator[tuple[str, list[Any]]]:
    """Endpoint and arguments of each job, the same ones for the same seed.

    Args:
        count: of jobs.
        seed: of the draw.
    """
    draw = random.Random(seed)
    picture, mask = source_picture(), mask_picture()
    for index in range(count):
        base = _settings(draw, index)
        prompt = draw.choice(_PROMPTS)
        kind = draw.choice(_KINDS)
        if kind == "generate":
            yield "generate", [prompt, {**base, "batch_size": draw.choice((1, 1, 2))}]
        elif kind == "compare":
            cells = [{"sampler": key} for key in draw.sample(_SAMPLERS, draw.choice((2, 3)))]
            yield "compare", [prompt, {"base": base, "cells": cells, "reference_steps": draw.choice((4, 6))}]
        elif kind == "edit":
            settings = _edit(draw, base, mask)
            large = "mask" not in settings and draw.random() < 0.25
            yield "edit", [prompt, source_picture(_LARGE) if large else picture, settings]
        elif kind == "animate":
            clip = {"frames": draw.choice((3, 6)), "fps": 12, "format": draw.choice(clip_formats())}
            yield "animate", [prompt, {"base": base, **clip, "keys": [{"prompt": draw.choice(_PROMPTS)}]}]
        elif kind == "quantize":
            variants = draw.sample(_METHODS, draw.choice((1, 2)))
            flags = {"measure": draw.random() < 0.3, "keep": draw.random() < 0.3}
            yield "quantize", [prompt, {"base": base, "variants": variants, **flags}]
        else:
            yield "generate", [prompt, {**base, **draw.choice(_REFUSED)}]


def _settings(draw: random.Random, index: int) -> dict[str, Any]:
    sampler, schedule = draw.choice(_SAMPLERS), draw.choice(_SCHEDULES)
    return {"num_inference_steps": draw.choice((2, 3, 4)), "seed": index, "sampler": sampler, "schedule": schedule}


def _edit(draw: random.Random, base: dict[str, Any], mask: str) -> dict[str, Any]:
    method = draw.choice(("image_to_image", "inpaint", "outpaint", "replace", "reprompt"))
    values: dict[str, Any] = {
        "base": {"num_inference_steps": base["num_inference_steps"], "seed": base["seed"]},
        "edit": method,
    }
    if method == "inpaint":
        values["mask"] = mask
    if method in ("replace", "reprompt"):
        values |= {"source_prompt": "a fox on a blue background", "inversion": draw.choice(("direct", "edict", "ddim"))}
    return values


def as_task(name: str, data: list[Any]) -> tuple[str, dict[str, Any]]:
    """The task and its values that an endpoint makes of its arguments."""
    prompt, settings = data[0], data[-1]
    if name == "generate":
        return "text_to_image", {**settings, "prompt": prompt}
    values = {**settings, "base": {**settings["base"], "prompt": prompt}}
    return name, values | ({"picture": data[1]} if name == "edit" else {})

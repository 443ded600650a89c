"""Edits of a small picture on a tiny model through a studio, for the tests of the task "edit"."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.pipelines.tiny_models import tiny_sd
from tests.studio.waiting import ended

BASE = {
    "model": "tiny",
    "prompt": "a red cat",
    "seed": 5,
    "num_inference_steps": 4,
    "sampler": "ddim",
    "schedule": "uniform",
    "guidance": {"key": "cfg", "guidance_scale": 4.0},
}


def make_models(folder: Path) -> None:
    tiny_sd(folder / "tiny")


def png(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def noise(size=(32, 32), mode="RGB"):
    pixels = np.random.default_rng(1).integers(0, 256, (*size[::-1], len(mode)), np.uint8)
    return Image.fromarray(pixels, mode)


PICTURE = png(noise())
MASK = png(Image.fromarray(np.pad(np.full((14, 10), 255, np.uint8), ((6, 12), (9, 13)))))


def finished(studio, **values):
    base = {**BASE, "width": 32, "height": 32, **values.pop("base", {})}
    job = studio.submit("edit", {"base": base, "picture": PICTURE, "source_prompt": "a red fox", **values})
    return ended(job)

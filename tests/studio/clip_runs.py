"""Clips of every tiny model through a studio, for the tests of the task "animate"."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.pipelines.tiny_models import tiny_sd
from tests.pipelines.tiny_videos import TINY_VIDEOS
from tests.studio.waiting import ended

BASE = {
    "model": "tiny-sd",
    "prompt": "a red fox",
    "seed": 5,
    "num_inference_steps": 2,
    "width": 32,
    "height": 32,
    "sampler": "ddim",
    "guidance": {"key": "cfg", "guidance_scale": 4.0},
}
KEYS = [{"prompt": "a blue cat", "seed": 9}]
MODELS = {
    "tiny-sd": (5, 32),
    "tiny-animatediff": (4, 32),
    "tiny-svd": (3, 64),
    "tiny-wan": (5, 32),
    "tiny-ltx": (9, 64),
}


OWN_PIPELINE = ("tiny-svd", "tiny-wan", "tiny-ltx")


def make_models(folder: Path) -> None:
    tiny_sd(folder / "tiny-sd")
    for name, make in TINY_VIDEOS.items():
        make(folder / f"tiny-{name}")


def picture(size=(64, 64), format="PNG", **options) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def values(model="tiny-sd", **changes):
    frames, side = MODELS[model]
    base = {**BASE, "model": model, "width": side, "height": side}
    if model in OWN_PIPELINE:
        del base["sampler"]
    base |= changes.pop("base", {})
    plain = {"base": base, "frames": frames, "fps": 8, "format": "webp"}
    plain |= {"keys": KEYS} if model == "tiny-sd" else {}
    plain |= {"first_frame": picture()} if model == "tiny-svd" else {}
    return {name: value for name, value in {**plain, **changes}.items() if value is not None}


def finished(studio, **more):
    job = studio.submit("animate", values(**more))
    return ended(job)


def frames_of(path) -> np.ndarray:
    with Image.open(path) as clip:
        found = []
        for number in range(getattr(clip, "n_frames", 1)):
            clip.seek(number)
            found.append(np.asarray(clip.convert("RGB")))
        return np.stack(found)

"""Pictures with texts inside, and requests whose texts are hard to write."""

from __future__ import annotations

import io
import json
import random

from PIL import Image, PngImagePlugin

from pipelines.core.types import MAX_PROMPT, Choice, LoraChoice, Request
from studio.infotext.names import SAMPLERS, SCHEDULES

NASTY = [
    "a cat",
    "two lines\nand a third\n\nafter an empty one",
    "Steps: 3, Sampler: Euler, CFG scale: 9, Seed: 7",
    "first\nSteps: 3, Sampler: Euler, CFG scale: 9, Seed: 7",
    "commas, \"quotes\", \\backslashes\\ and 'more'",
    "emoji 🐈‍⬛ 😀, 漢字, ümläut, العربية",
    "colons: everywhere: (word:1.2), [a:b:0.5]",
    "Negative  prompt: with two blanks is no marker",
    "says Negative prompt: in the middle of a line",
    '<b>html & {json: "x"}</b> %s {0} $HOME ../../etc/passwd',
    "x" * MAX_PROMPT,
]


def payload(request: Request, **head) -> str:
    return json.dumps({"stepwise": 1, **head, "metadata": {"request": request.to_json()}}, ensure_ascii=False)


def reopened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def png_with(**chunks: str) -> Image.Image:
    info = PngImagePlugin.PngInfo()
    for name, text in chunks.items():
        info.add_text(name, text)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return reopened(buffer.getvalue())


WRITTEN = [row for row in SCHEDULES if row.written or (row.a1111 and row.key not in ("uniform", "beta"))]
"""Schedules whose name in our parameters text is read back as the same."""


def some_request(draw: random.Random) -> Request:
    return Request(
        prompt=draw.choice(NASTY),
        negative_prompt=draw.choice(["", *NASTY]),
        sampler=Choice(draw.choice([row.key for row in SAMPLERS])),
        schedule=draw.choice([Choice(row.key, row.setting) for row in WRITTEN]),
        guidance=Choice("cfg", {"guidance_scale": draw.choice([1.0, 4.0, 7.5, 0.1])}),
        num_inference_steps=draw.randint(1, 200),
        width=8 * draw.randint(4, 200),
        height=8 * draw.randint(4, 200),
        seed=draw.choice([0, 1, 2**32, 2**63 - 1]),
        variation_seed=draw.randint(0, 2**40),
        variation_strength=draw.choice([0.0, 0.25, 1.0]),
        batch_size=draw.randint(1, 4),
        loras=tuple(
            LoraChoice(name, draw.choice([1.0, 0.5, -0.75]))
            for name in draw.sample(["ink", "a b-c_d", "x.y"], draw.randint(0, 3))
        ),
    )


COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 18446744073709551615,
            "steps": 20,
            "cfg": 8,
            "sampler_name": "euler_ancestral",
            "scheduler": "normal",
            "denoise": 1,
            "model": ["10", 0],
            "positive": ["12", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "../../v1-5.ckpt"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 640, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["13", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "watermark", "clip": ["4", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}, "is_changed": [float("nan")]},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {"lora_name": "ink.safetensors", "strength_model": 0.6, "model": ["4", 0], "clip": ["4", 1]},
    },
    "12": {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {"positive": ["6", 0], "negative": ["7", 0], "strength": 1.0},
    },
    "13": {"class_type": "PrimitiveString", "inputs": {"value": "a bottle"}},
}

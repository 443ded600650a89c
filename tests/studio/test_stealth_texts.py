"""Settings in a picture's lowest bits, as NovelAI and the stealth extension of A1111 write them."""

from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pytest
from PIL import Image

from studio.infotext import read
from studio.media.pictures import MAX_PIXELS

COMMENT = {"prompt": "a fox", "uc": "blurry", "steps": 28, "sampler": "k_euler", "seed": 2**33, "scale": 5.0}
NOVELAI = json.dumps({"Description": "a fox", "Software": "NovelAI", "Source": "v4", "Comment": json.dumps(COMMENT)})
PARAMETERS = "a fox\nNegative prompt: blurry\nSteps: 28, Sampler: Euler, Seed: 7, CFG scale: 5"


def hidden(text, mark, side=64, format="PNG", length=None, **options):
    """A picture with the text in its lowest bits, bit by bit as the extension writes it."""
    body = gzip.compress(text.encode()) if mark.endswith("comp") else text.encode()
    length = 8 * len(body) if length is None else length
    bits = "".join(f"{byte:08b}" for byte in mark.encode() + length.to_bytes(4, "big") + body)
    pixels = np.random.default_rng(0).integers(100, 200, (side, side, 4), dtype=np.uint8)
    pixels[..., 3] = 254
    channels = [3] if "png" in mark else [0, 1, 2]
    index = iter(bits)
    for x in range(side):
        for y in range(side):
            for channel in channels:
                bit = next(index, None)
                if bit is not None:
                    pixels[y, x, channel] = pixels[y, x, channel] & 254 | int(bit)
    picture = Image.fromarray(pixels if "png" in mark else pixels[..., :3])
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    buffer.seek(0)
    return Image.open(buffer)


@pytest.mark.parametrize("mark", ["stealth_pngcomp", "stealth_pnginfo", "stealth_rgbcomp", "stealth_rgbinfo"])
@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_each_mark_is_read(mark, format, options):
    restored = read(hidden(NOVELAI, mark, format=format, **options))
    assert restored.source == "novelai" and restored.values["prompt"] == "a fox"
    assert (restored.values["seed"], restored.values["negative_prompt"]) == (2**33, "blurry")
    assert read(hidden(PARAMETERS, mark, format=format, **options)).values["seed"] == 7


@pytest.mark.parametrize("length", [0, 8, 2**31, 2**32 - 1])
def test_a_false_length_is_nobodys_settings(length):
    assert read(hidden(NOVELAI, "stealth_pngcomp", length=length)) is None


def test_a_bomb_ends_at_the_limit():
    restored = read(hidden("a" * 50_000_000, "stealth_pngcomp", side=768))
    assert restored is None or restored.values == {}


def test_what_a_file_says_itself_comes_first_and_large_pictures_are_not_decoded(monkeypatch):
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", PARAMETERS)
    picture = hidden(NOVELAI, "stealth_pngcomp", pnginfo=info)
    monkeypatch.setattr(type(picture), "load", lambda self: pytest.fail("decoded"))
    assert read(picture).values["seed"] == 7
    large = hidden(NOVELAI, "stealth_pngcomp")
    monkeypatch.setattr(type(large), "size", (MAX_PIXELS, 2), raising=False)
    assert read(large) is None

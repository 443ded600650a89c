"""Texts that hide in a picture's lowest bits, which survive where a site strips a file's metadata.

Source: "stealth pnginfo" by ashen-sensored (sd_webui_stealth_pnginfo), which NovelAI adopted: column after column, the
lowest bit of alpha (or of red, green and blue in turn) holds a mark of 15 letters, the length in bits (32 bits, the
highest first), and the text in UTF-8, with "comp" in the mark as gzip.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from studio.infotext.png_texts import MAX_CHUNK_TEXT
from studio.media.pictures import MAX_PIXELS

__all__ = ["read_stealth_texts"]

_MARK, _LENGTH = 15, 4
_ALPHA = {b"stealth_pnginfo": False, b"stealth_pngcomp": True}
_COLORS = {b"stealth_rgbinfo": False, b"stealth_rgbcomp": True}
_LOSSLESS = ("PNG", "WEBP")


def read_stealth_texts(picture: Image.Image) -> dict[str, str]:
    """Read the hidden text of an opened picture: NovelAI's JSON object by its keys, any other text as "parameters".

    The pixels are decoded for it, after a look at their count; a picture of any other format holds none.

    Args:
        picture: as `Image.open` returns it.
    """
    if picture.format not in _LOSSLESS or picture.width * picture.height > MAX_PIXELS:
        return {}
    if picture.mode not in ("RGB", "RGBA"):
        return {}
    try:
        pixels = np.asarray(picture)
    except Exception:  # decoders raise a dozen kinds on broken files, which hold no hidden text either
        return {}
    hidden_text = None
    if picture.mode == "RGBA":
        hidden_text = _hidden(lambda count: _columns(pixels[..., 3:], count), _ALPHA)
    if hidden_text is None:
        hidden_text = _hidden(lambda count: _columns(pixels[..., :3], count), _COLORS)
    return _split_by_keys(hidden_text) if hidden_text else {}


def _columns(channels: np.ndarray, count: int) -> bytes:
    """The first `count` bytes of the lowest bits of (H, W, C), column after column; fewer where the picture ends."""
    height, _, depth = channels.shape
    wide = -(-8 * count // (height * depth))
    bits = (channels[:, :wide] & 1).transpose(1, 0, 2).reshape(-1)[: 8 * count]
    return np.packbits(bits[: len(bits) // 8 * 8]).tobytes()


def _hidden(read: Callable[[int], bytes], marks: dict[bytes, bool]) -> str | None:
    head = read(_MARK + _LENGTH)
    mark = head[:_MARK]
    if len(head) < _MARK + _LENGTH or mark not in marks:
        return None
    length = int.from_bytes(head[_MARK:], "big") // 8
    if not 0 < length <= MAX_CHUNK_TEXT:
        return None
    body = read(_MARK + _LENGTH + length)[_MARK + _LENGTH :]
    try:
        plain = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, MAX_CHUNK_TEXT) if marks[mark] else body
        return plain.decode("utf-8")
    except (zlib.error, UnicodeDecodeError):
        return None


def _split_by_keys(text: str) -> dict[str, str]:
    try:
        plain = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        plain = None
    if isinstance(plain, dict) and "Comment" in plain:
        return {name: value for name, value in plain.items() if isinstance(value, str)}
    return {"parameters": text}

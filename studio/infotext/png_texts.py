"""The text chunks of a PNG file, before and behind its pixel data, read without decoding a pixel.

Source: W3C, Portable Network Graphics (third edition), section 11.3.3 for tEXt, zTXt and iTXt, 11.3.4 for eXIf.
Differs: tEXt and zTXt are read as UTF-8 where their bytes are that, since most programs write it so; check sums are not
    compared, since a text does no harm.
"""

from __future__ import annotations

import struct
import zlib
from typing import IO

__all__ = ["EXIF", "MAX_CHUNK_TEXT", "decode_text", "read_png_texts"]

MAX_CHUNK_TEXT = 4 * 2**20
"""Bytes of one text after inflation; a longer one is cut off here, and its reader finds it too long."""

EXIF = "eXIf"
"""The name under which `read_png_texts` gives the EXIF block, as Latin-1."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 100_000
_MAX_TOTAL = 32 * 2**20  # of all texts together
_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"eXIf"}


def read_png_texts(stream: IO[bytes]) -> dict[str, str]:
    """Read the texts by keyword; where one comes twice, the last.

    Args:
        stream: of a PNG file, seekable; its position is the same afterwards.
    """
    position = stream.tell()
    try:
        stream.seek(0)
        return _read_chunks(stream) if stream.read(len(_SIGNATURE)) == _SIGNATURE else {}
    finally:
        stream.seek(position)


def decode_text(data: bytes) -> str:
    """Decode as UTF-8 where the bytes are that, else as Latin-1, which any bytes are."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        # A text that was cut off at its limit may end inside a character.
        return data.decode("utf-8", "ignore") if len(data) > MAX_CHUNK_TEXT else data.decode("latin-1")


def _read_chunks(stream: IO[bytes]) -> dict[str, str]:
    chunks: dict[str, str] = {}
    total = 0
    for _ in range(_MAX_CHUNKS):
        head = stream.read(8)
        if len(head) < 8 or total > _MAX_TOTAL:
            break
        length, kind = struct.unpack(">I4s", head)
        if kind not in _TEXTS:
            stream.seek(length + 4, 1)
            continue
        data = stream.read(min(length, 2 * MAX_CHUNK_TEXT))
        stream.seek(length - len(data) + 4, 1)
        total += len(data)
        if kind == b"eXIf":
            chunks[EXIF] = data.decode("latin-1")
        elif (text := _parse_text(kind, data)) is not None:
            total += len(text[1])
            chunks[text[0]] = text[1]
    return chunks


def _parse_text(kind: bytes, data: bytes) -> tuple[str, str] | None:
    keyword, separator, body = data.partition(b"\0")
    if not separator or not keyword:
        return None
    name = keyword.decode("latin-1")
    if kind == b"tEXt":
        return name, decode_text(body[: MAX_CHUNK_TEXT + 1])
    if kind == b"zTXt":
        content = _inflate(body[1:])
    else:
        compressed, parts = body[:1] == b"\1", body[2:].split(b"\0", 2)
        if len(parts) < 3:
            return None
        content = _inflate(parts[2]) if compressed else parts[2][: MAX_CHUNK_TEXT + 1]
    return None if content is None else (name, decode_text(content))


def _inflate(data: bytes) -> bytes | None:
    """At most one byte more than is allowed; None for what is not zlib's."""
    try:
        return zlib.decompressobj().decompress(data, MAX_CHUNK_TEXT + 1)
    except zlib.error:
        return None

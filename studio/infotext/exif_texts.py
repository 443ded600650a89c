"""The texts in an EXIF block: descriptions and comments in either directory, in every encoding that is in use.

Source: CIPA DC-008-2023, Exif 3.0, section 4.6.2 (types, among them UTF-8) and 4.6.6.4 (UserComment).
Differs: programs write UserComment into the main directory, too, leave its eight bytes of character code out, and put
    UTF-8 or either byte order of UTF-16 behind the same code; all of that is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from studio.infotext.png_texts import MAX_CHUNK_TEXT, decode_text

__all__ = ["decode_comment", "read_exif_texts"]

_EXIF_DIRECTORY = 0x8769
_COMMENT, _WINDOWS_COMMENT = 0x9286, 0x9C9C
_NAMES: Mapping[int, str] = {
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0131: "Software",
    _COMMENT: "UserComment",
    _WINDOWS_COMMENT: "XPComment",
}
_BYTE_TYPES = {1, 2, 6, 7, 129}  # BYTE, ASCII, SBYTE, UNDEFINED, UTF-8
_LONG_TYPES = {4, 13}  # LONG, IFD
_MAX_ENTRIES = 1000


def read_exif_texts(data: bytes) -> dict[str, str]:
    """Read the texts by the names of their tags; what the Exif directory says goes before what the main one says.

    Args:
        data: an EXIF block, with or without "Exif" before its TIFF header; of a broken one what can be read is.
    """
    for _ in range(2):  # some programs write it twice
        data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return {}
    texts: dict[str, str] = {}
    directories = [struct.unpack_from(f"{order}I", data, 4)[0]]
    for offset in directories:
        for tag, value in _iter_entries(data, order, offset):
            if isinstance(value, int):
                if len(directories) == 1:
                    directories.append(value)
            elif text := _decode_value(tag, value, order):
                texts[_NAMES[tag]] = text
    return texts


def _iter_entries(data: bytes, order: str, offset: int) -> Iterator[tuple[int, bytes | int]]:
    if offset + 2 > len(data):
        return
    (count,) = struct.unpack_from(f"{order}H", data, offset)
    for number in range(min(count, _MAX_ENTRIES)):
        place = offset + 2 + 12 * number
        if place + 12 > len(data):
            return
        tag, kind, length, target = struct.unpack_from(f"{order}HHII", data, place)
        if tag == _EXIF_DIRECTORY and kind in _LONG_TYPES:
            yield tag, target
        elif tag in _NAMES and kind in _BYTE_TYPES:
            start = place + 8 if length <= 4 else target
            yield tag, data[start : start + min(length, MAX_CHUNK_TEXT)]


def _decode_value(tag: int, value: bytes, order: str) -> str:
    if tag == _COMMENT:
        return decode_comment(value, order)
    if tag == _WINDOWS_COMMENT:
        return value.decode("utf-16-le", "ignore").strip("\0")
    return decode_text(value.rstrip(b"\0"))


def decode_comment(data: bytes, order: str = ">") -> str:
    """Decode the text of a UserComment.

    Args:
        data: with its character code, if it has one.
        order: of the block, ">" or "<": decides only where the text itself leaves the byte order open.
    """
    code, body = data[:8], data[8:]
    word = code.rstrip(b"\0 ").upper()
    if word == b"UNICODE" and (code[7:] == b"\0" or b"\0" in body):
        return _decode_unicode(body, order)
    if word == b"JIS" and code[3:] in (bytes(5), b" " * 5):
        return _decode_japanese(body)
    if code == bytes(8) or (word == b"ASCII" and code[5:] in (bytes(3), b" " * 3)):
        data = body
    return _decode_plain(data, order)


def _decode_plain(data: bytes, order: str) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or data.rstrip(b"\0").count(0) > len(data) // 4:
        return _decode_unicode(data, order)
    return decode_text(data.strip(b"\0").removeprefix(b"\xef\xbb\xbf"))


def _decode_unicode(data: bytes, order: str) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").strip("\0")
    stripped = data.strip(b"\0").removeprefix(b"\xef\xbb\xbf")
    if 0 not in stripped:  # UTF-16 of any text with a blank or a line end holds zeros
        try:
            return stripped.decode("utf-8")
        except UnicodeDecodeError:
            pass
    data = data[: len(data) // 2 * 2]
    readings = {one: data.decode(f"utf-16-{name}", "replace") for one, name in ((">", "be"), ("<", "le"))}
    # Any settings text holds ASCII, which the wrong byte order turns into rare characters.
    ascii = {one: sum("\0" < letter < "\x80" for letter in text) for one, text in readings.items()}
    swapped = "<" if order == ">" else ">"
    return readings[swapped if ascii[swapped] > ascii[order] else order].strip("\0")


def _decode_japanese(data: bytes) -> str:
    data = data.strip(b"\0")
    for encoding in ("iso2022_jp_ext",) if b"\x1b" in data else ("utf-8", "cp932", "euc_jp"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return decode_text(data)

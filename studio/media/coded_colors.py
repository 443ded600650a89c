"""Colors that a file names by code points and not by a profile: PNG's cICP chunk and AVIF's nclx box.

Sources: ITU-T H.273, tables 2 and 3 (code points of primaries and transfer functions), IEC 61966-2-1 (sRGB), W3C, PNG
specification, third edition, section 11.3.2.6 (cICP goes before iCCP), ISO/IEC 14496-12, section 12.1.5 (colr).
Differs: the transfer functions of BT.601, BT.709 and BT.2020 are read as sRGB's, as browsers do, since pictures of them
are made for the same screens.
"""

from __future__ import annotations

import struct
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

__all__ = ["HDR", "CodePoints", "convert_code_points", "read_code_points"]

HDR = "The picture is for HDR screens, which is not converted here, so its colors may look pale."
"""Said of the transfer functions PQ and HLG."""

OTHER = "The picture names colors that are not converted here, so they may look a little different."

_WHITE = (0.3127, 0.3290)  # D65
_BT709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_PRIMARIES = {
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
"""Red, green and blue of those with the white of D65; 1 is sRGB's own, 2 is none said."""

_SAME_PRIMARIES, _LIKE_SRGB, _HDR = {1, 2}, {1, 2, 6, 13, 14, 15}, {16, 18}
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_MOST_HEAD = 2**20  # bytes of an AVIF's head that are looked at
_STRIP = 256  # rows that are converted at a time


class CodePoints(NamedTuple):
    """Describes what a file says of its colors.

    Attributes:
        primaries, transfer: code points of H.273.
    """

    primaries: int
    transfer: int

    @property
    def is_srgb(self) -> bool:
        """Say whether nothing is to be converted."""
        return self.primaries in _SAME_PRIMARIES and self.transfer in _LIKE_SRGB


def read_code_points(image: Image.Image) -> CodePoints | None:
    """Read the code points of an opened, not yet decoded, PNG or AVIF; None where the file names none.

    A PNG's go before its color profile, an AVIF's stand behind one.

    Args:
        image: as `Image.open` returns it; the place in its stream is the same afterwards.
    """
    stream = getattr(image, "fp", None)
    if stream is None or image.format not in ("PNG", "AVIF"):
        return None
    if image.format == "AVIF" and image.info.get("icc_profile"):
        return None
    position = stream.tell()
    try:
        stream.seek(0)
        return _read_png(stream) if image.format == "PNG" else _read_nclx(stream.read(_MOST_HEAD))
    finally:
        stream.seek(position)


def _read_png(stream: IO[bytes]) -> CodePoints | None:
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"cICP" and length == 4:
            primaries, transfer, *_ = stream.read(4)
            return CodePoints(primaries, transfer)
        if kind in (b"IDAT", b"IEND"):  # cICP stands before the pixels
            return None
        stream.seek(length + 4, 1)
    return None


def _read_nclx(head: bytes) -> CodePoints | None:
    """Of the first colr box of an AVIF's head that has them."""
    place = head.find(b"colr")
    while place >= 0:
        if head[place + 4 : place + 8] == b"nclx" and len(head) >= place + 12:
            return CodePoints(*struct.unpack(">HH", head[place + 8 : place + 12]))
        place = head.find(b"colr", place + 4)
    return None


def convert_code_points(picture: Image.Image, points: CodePoints) -> tuple[Image.Image, str]:
    """Convert a picture to sRGB.

    Args:
        picture: of 8 bits a channel, any mode.
        points: of its file.

    Returns:
        The picture, converted where these colors are known here; and a sentence for the person where not, else "".
    """
    if points.is_srgb:
        return picture, ""
    if points.transfer in _HDR:
        return picture, HDR
    has_known_primaries = points.primaries in _SAME_PRIMARIES or points.primaries in _PRIMARIES
    if not has_known_primaries or not (points.transfer in _LIKE_SRGB or points.transfer in _GAMMAS):
        return picture, OTHER
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    pixels = np.asarray(picture.convert("RGB"))
    result = Image.fromarray(_convert(pixels, points))
    result.info = dict(picture.info)
    if alpha is not None:
        result.putalpha(alpha)
    return result, ""


def _convert(pixels: np.ndarray, points: CodePoints) -> np.ndarray:
    ramp = np.arange(256) / 255
    gamma = _GAMMAS.get(points.transfer)
    light = (_srgb_to_light(ramp) if gamma is None else ramp**gamma).astype(np.float32)
    matrix = np.eye(3)
    if points.primaries in _PRIMARIES:
        matrix = np.linalg.inv(_to_xyz(_BT709)) @ _to_xyz(_PRIMARIES[points.primaries])
    converted = np.empty_like(pixels)
    for start in range(0, len(pixels), _STRIP):
        linear = light[pixels[start : start + _STRIP]] @ matrix.T.astype(np.float32)
        converted[start : start + _STRIP] = (255 * _light_to_srgb(linear.clip(0, 1))).round().astype(np.uint8)
    return converted


def _to_xyz(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Columns of XYZ for each primary, so that one of each is the white."""
    columns = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in primaries]).T
    x, y = _WHITE
    return columns * np.linalg.solve(columns, [x / y, 1.0, (1 - x - y) / y])


def _srgb_to_light(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _light_to_srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)

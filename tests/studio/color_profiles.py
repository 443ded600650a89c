"""Color profiles made from their numbers: a matrix of primaries with one tone curve, and a grey one.

Source: ICC.1:2010, section 7 (header, tag table), 10.5 (curveType), 10.31 (XYZType).
"""

from __future__ import annotations

import struct

import numpy as np

__all__ = ["DISPLAY_P3", "P3_PRIMARIES", "SRGB_PRIMARIES", "grey_profile", "rgb_profile", "srgb_curve"]

P3_PRIMARIES = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB_PRIMARIES = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
"""Columns: red, green and blue in XYZ under D50."""


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    """sRGB's encoding of linear light from 0 to 1 (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


def _xyz(values) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _gamma(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    white = _xyz((0.9642, 1.0, 0.8249))
    name = b"made for a test"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + bytes(1 + 4 + 4 + 2 + 1 + 67)
    tags = {
        b"desc": described + bytes(-len(described) % 4),
        b"wtpt": white,
        b"cprt": b"text\0\0\0\0free\0\0\0\0",
        **tags,
    }
    table, body, place = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", place + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4sI4s4s4s12s4s", place + len(body), b"lcms", 0x02100000, b"mntr", space, b"XYZ ", bytes(12), b"acsp"
    )
    head += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb_profile(primaries: np.ndarray, gamma: float) -> bytes:
    """A profile of three primaries (columns, XYZ under D50) with one power curve."""
    columns = {name: _xyz(primaries[:, number]) for number, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return _profile(b"RGB ", {**columns, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(gamma))})


def grey_profile(gamma: float) -> bytes:
    """A grey profile with a power curve."""
    return _profile(b"GRAY", {b"kTRC": _gamma(gamma)})


DISPLAY_P3 = rgb_profile(P3_PRIMARIES, 2.2)
"""Display P3's primaries with a power curve, which a formula gives back exactly."""

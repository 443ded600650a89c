"""PNG's cICP and AVIF's nclx become sRGB by their formulas, or the page says that they do not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from studio.media.coded_colors import HDR
from studio.media.pictures import open_picture
from tests.studio.color_profiles import DISPLAY_P3

COLORS = np.array([[[200, 60, 60], [90, 140, 100], [128, 128, 128], [70, 90, 160]]], np.uint8)
BT709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
PRIMARIES = {
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}


def png(pixels, points=None, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    data = buffer.getvalue()
    if points is None:
        return data
    body = b"cICP" + bytes([*points, 0, 1])
    return data[:33] + struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def avif(pixels, points):
    buffer = io.BytesIO()
    Image.fromarray(np.repeat(np.repeat(pixels, 32, 0), 32, 1)).save(buffer, "AVIF", quality=100, subsampling="4:4:4")
    data = buffer.getvalue()
    place = data.index(b"colrnclx") + 8
    return data[:place] + struct.pack(">HH", *points) + data[place + 4 :]


def xyz(primaries):
    """By solving for the three brightnesses that make D65, as SMPTE RP 177 derives it."""
    columns = np.array([(x, y, 1 - x - y) for x, y in primaries]).T
    white = np.array([0.3127 / 0.329, 1, (1 - 0.3127 - 0.329) / 0.329])
    return columns @ np.diag(np.linalg.inv(columns) @ white)


def expected(pixels, primaries, gamma=None):
    values = pixels / 255
    light = values**gamma if gamma else np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    matrix = np.linalg.inv(xyz(BT709)) @ xyz(primaries)
    light = (light @ matrix.T).clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("points", "gamma"), [((12, 13), None), ((9, 13), None), ((12, 4), 2.2), ((9, 8), 1.0)])
def test_a_png_is_converted_by_its_code_points(points, gamma):
    opened = open_picture(png(COLORS, points))
    # Rounding to 8 bits.
    assert np.abs(np.asarray(opened) - expected(COLORS, PRIMARIES[points[0]], gamma)).max() <= 0.6
    assert np.abs(np.asarray(opened).astype(int) - COLORS).max() > 4 and opened.info["notes"] == []


@pytest.mark.parametrize("points", [(1, 13), (1, 1), (2, 2)])
def test_srgb_s_own_and_unsaid_ones_change_nothing(points):
    assert np.array_equal(np.asarray(open_picture(png(COLORS, points))), COLORS)


def test_they_go_before_a_profile_and_masks_keep_their_numbers():
    assert np.array_equal(np.asarray(open_picture(png(COLORS, (1, 13), icc_profile=DISPLAY_P3))), COLORS)
    assert np.array_equal(np.asarray(open_picture(png(COLORS, (12, 13)), mask=True)), COLORS)


@pytest.mark.parametrize("points", [(9, 16), (9, 18)])
def test_hdr_is_said(points):
    opened = open_picture(png(COLORS, points))
    assert np.array_equal(np.asarray(opened), COLORS) and opened.info["notes"] == [HDR]
    assert open_picture(avif(COLORS, points)).info["notes"] == [HDR]


def test_code_points_that_are_not_known_are_said():
    (note,) = open_picture(png(COLORS, (10, 13))).info["notes"]
    assert "not converted" in note


def test_alpha_stays():
    pixels = np.dstack([COLORS, [[0, 80, 160, 255]]]).astype(np.uint8)
    opened = np.asarray(open_picture(png(pixels, (12, 13))))
    assert np.array_equal(opened[..., 3], pixels[..., 3])
    assert np.abs(opened[..., :3] - expected(COLORS, PRIMARIES[12])).max() <= 0.6


def test_an_avif_of_display_p3():
    opened = np.asarray(open_picture(avif(COLORS, (12, 13))))[16, 16::32]
    # Lossy.
    assert np.abs(opened - expected(COLORS, PRIMARIES[12])[0]).max() <= 4
    plain = np.asarray(open_picture(avif(COLORS, (1, 13))))[16, 16::32].astype(int)
    assert np.abs(plain - COLORS[0]).max() <= 4


def test_damaged_chunks_change_nothing():
    data = png(COLORS)
    assert np.array_equal(np.asarray(open_picture(data[:33] + data[33:])), COLORS)
    body = b"cICP" + bytes([12])
    short = data[:33] + struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]
    assert np.array_equal(np.asarray(open_picture(short)), COLORS)

"""Source pictures become sRGB of eight bits: by formula for P3, grey and 16 bits, and masks keep their numbers."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from studio.infotext.embed import encode
from studio.media.colors import LEFT_OUT
from studio.media.pictures import open_picture
from studio.tasks.pictures import read_mask, read_picture
from tests.studio.color_profiles import (
    DISPLAY_P3,
    P3_PRIMARIES,
    SRGB_PRIMARIES,
    grey_profile,
    rgb_profile,
    srgb_curve,
)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def colorful() -> np.ndarray:
    """P3 colors that sRGB holds, too: (24, 24, 3), uint8."""
    generator = np.random.default_rng(0)
    return (60 + 120 * generator.random((24, 24, 1)) + 30 * generator.random((24, 24, 3))).astype(np.uint8)


def as_srgb(pixels: np.ndarray, primaries: np.ndarray, gamma: float) -> np.ndarray:
    light = (pixels / 255) ** gamma @ (np.linalg.inv(SRGB_PRIMARIES) @ primaries).T
    return 255 * srgb_curve(light.clip(0, 1))


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_a_display_p3_picture_becomes_srgb(format, options):
    pixels = colorful()
    opened = open_picture(encoded(Image.fromarray(pixels), format, icc_profile=DISPLAY_P3, **options))
    expected = as_srgb(pixels, P3_PRIMARIES, 2.2)
    # Rounding to 8 bits, and the profile's numbers of 16 bits.
    assert np.abs(np.asarray(opened) - expected).max() <= 1.5
    assert np.abs(pixels - expected).max() > 5
    assert "icc_profile" not in opened.info and opened.info["notes"] == []


@pytest.mark.parametrize("format", ["JPEG", "AVIF"])
def test_lossy_formats_are_converted_alike(format):
    data = encoded(Image.new("RGB", (16, 16), (200, 60, 60)), format, quality=100, icc_profile=DISPLAY_P3)
    expected = as_srgb(np.array([200, 60, 60]), P3_PRIMARIES, 2.2)
    assert np.abs(np.asarray(open_picture(data))[8, 8] - expected).max() <= 4


def test_alpha_and_palettes_are_converted_and_alpha_is_kept():
    pixels = np.dstack([colorful(), np.arange(576).reshape(24, 24) % 256]).astype(np.uint8)
    opened = np.asarray(open_picture(encoded(Image.fromarray(pixels), icc_profile=DISPLAY_P3)))
    assert np.array_equal(opened[..., 3], pixels[..., 3])
    assert np.abs(opened[..., :3] - as_srgb(pixels[..., :3], P3_PRIMARIES, 2.2)).max() <= 1.5
    palette = Image.new("RGB", (8, 8), (200, 120, 60)).quantize(4)
    expected = as_srgb(np.array(palette.convert("RGB").getpixel((0, 0))), P3_PRIMARIES, 2.2)
    assert np.abs(np.asarray(open_picture(encoded(palette, icc_profile=DISPLAY_P3)))[4, 4] - expected).max() <= 1.5


def test_srgb_s_own_profile_changes_no_bit():
    pixels = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
    opened = open_picture(encoded(Image.fromarray(pixels), icc_profile=SRGB))
    assert np.array_equal(np.asarray(opened), pixels) and "icc_profile" not in opened.info


def test_grey_pictures_keep_no_profile():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = open_picture(encoded(Image.fromarray(ramp), icc_profile=grey_profile(1.0)))
    assert np.abs(np.asarray(grey)[..., 1] - 255 * srgb_curve(ramp / 255)).max() <= 1.5
    of_colors = open_picture(encoded(Image.fromarray(ramp), "JPEG", quality=100, icc_profile=DISPLAY_P3))
    assert np.abs(np.asarray(of_colors)[..., 0].astype(int) - ramp).max() <= 2
    for picture in (grey, of_colors):
        assert "icc_profile" not in picture.info and picture.info["notes"] == []


def test_a_mask_keeps_its_numbers():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for profile in (grey_profile(1.0), DISPLAY_P3, b"broken"):
        data = encoded(Image.fromarray(ramp), icc_profile=profile)
        opened = open_picture(data, mask=True)
        assert np.array_equal(np.asarray(opened)[..., 0], ramp)
        assert "icc_profile" not in opened.info and opened.info["notes"] == []
        for form in (data, base64.b64encode(data).decode()):
            assert np.array_equal(read_mask(form).pixels, ramp > 127)


def test_the_edit_s_source_is_converted():
    pixels = colorful()
    data = encoded(Image.fromarray(pixels), icc_profile=DISPLAY_P3)
    assert np.abs(read_picture(data).pixels - as_srgb(pixels, P3_PRIMARIES, 2.2)).max() <= 1.5


@pytest.mark.parametrize("profile", [b"broken", DISPLAY_P3[:200], grey_profile(2.2), bytes(5000)])
def test_a_profile_that_cannot_be_used_is_said(profile):
    pixels = colorful()
    opened = open_picture(encoded(Image.fromarray(pixels), icc_profile=profile))
    assert np.array_equal(np.asarray(opened), pixels)
    assert opened.info["notes"] == [LEFT_OUT] and "icc_profile" not in opened.info


def test_cmyk_with_and_without_a_profile_of_another_kind():
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for options in ({}, {"icc_profile": DISPLAY_P3}):
        red, green, blue = open_picture(encoded(ink, "JPEG", quality=100, **options)).getpixel((8, 8))
        assert red > 200 and max(green, blue) < 60


def test_sixteen_bits_are_scaled_even_where_they_are_dark():
    dark = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert np.asarray(open_picture(encoded(Image.fromarray(dark)))).max() == 1
    ramp = np.linspace(0, 65535, 4096).round().astype(np.uint16).reshape(64, 64)
    opened = np.asarray(open_picture(encoded(Image.fromarray(ramp))))[..., 0]
    assert np.abs(opened - ramp / 257).max() <= 0.501
    linear = np.asarray(open_picture(encoded(Image.fromarray(ramp), icc_profile=grey_profile(1.0))))[..., 0]
    assert np.abs(linear - 255 * srgb_curve(opened / 255)).max() <= 1.5


def test_what_is_written_carries_no_profile():
    pixels = colorful()
    picture = Image.open(io.BytesIO(encoded(Image.fromarray(pixels), icc_profile=DISPLAY_P3)))
    for format in ("png", "jpeg", "webp"):
        written = Image.open(io.BytesIO(encode(picture, format, "", "{}")))
        assert "icc_profile" not in written.info
    written = Image.open(io.BytesIO(encode(picture, "png", "", "{}")))
    assert np.abs(np.asarray(written) - as_srgb(pixels, P3_PRIMARIES, 2.2)).max() <= 1.5
    grey = Image.new("L", (8, 8), 90)
    grey.info["icc_profile"] = DISPLAY_P3
    written = Image.open(io.BytesIO(encode(grey, "png", "", "{}")))
    assert written.mode == "L" and "icc_profile" not in written.info and written.getpixel((0, 0)) == 90


def test_a_wide_gamut_with_another_curve():
    pixels = colorful()
    opened = open_picture(encoded(Image.fromarray(pixels), icc_profile=rgb_profile(P3_PRIMARIES, 1.8)))
    assert np.abs(np.asarray(opened) - as_srgb(pixels, P3_PRIMARIES, 1.8)).max() <= 1.5

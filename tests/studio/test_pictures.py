"""Uploads: what is refused before decoding, and what comes out upright in RGB or RGBA."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import PictureError
from studio.media.pictures import open_picture


def encoded(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.merge("RGB", [Image.effect_noise(size, 60) for _ in range(3)]).convert(mode)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_allowed_formats_open_from_bytes_and_from_a_file(format, tmp_path):
    data = encoded(noise(), format)
    (tmp_path / "upload").write_bytes(data)
    for source in (data, tmp_path / "upload", str(tmp_path / "upload")):
        picture = open_picture(source)
        assert (picture.mode, picture.size, picture.info["notes"]) == ("RGB", (40, 30), [])


@pytest.mark.parametrize("format", ["ICO", "PPM", "TGA", "PCX", "ICNS", "EPS", "PDF"])
def test_other_formats_are_refused_even_where_pillow_knows_them(format):
    with pytest.raises(PictureError, match="not a picture that can be read here"):
        open_picture(encoded(noise(size=(32, 32)), format))


@pytest.mark.parametrize(
    "data", [b"", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"RIFF\x00\x00\x00\x00WEBPVP8 "]
)
def test_what_is_no_picture_is_refused_in_one_sentence(data):
    with pytest.raises(PictureError) as caught:
        open_picture(data)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_too_many_bytes():
    with pytest.raises(PictureError, match=r"at most 0\.0 MiB"):
        open_picture(encoded(noise()), max_bytes=100)


@pytest.mark.parametrize("size", [(30_000, 30_000), (12_000, 12_000), (2**31 - 1, 2**31 - 1), (60, 50)])
def test_too_many_pixels_are_refused_before_a_pixel_is_decoded(size, monkeypatch):
    from PIL import PngImagePlugin

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(PictureError, match="pixels"):
        open_picture(png_header(*size), max_pixels=2000)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_and_damaged_files(format):
    data = encoded(noise(size=(200, 200)), format)
    for cut in (len(data) // 3, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(PictureError):
            open_picture(data[:cut])
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), 20):
            damaged[place] = generator.integers(256)
        try:
            assert open_picture(bytes(damaged), max_pixels=10**6).mode in {"RGB", "RGBA"}
        except PictureError:
            pass


def test_a_missing_file():
    with pytest.raises(PictureError, match="upload it again"):
        open_picture("/nonexistent/upload.png")


def test_modes():
    assert open_picture(encoded(noise("RGBA"))).mode == "RGBA"
    assert open_picture(encoded(noise("LA"))).mode == "RGBA"
    assert open_picture(encoded(noise("L"))).mode == "RGB"
    assert open_picture(encoded(noise("P"))).mode == "RGB"
    assert open_picture(encoded(noise("P"), transparency=0)).mode == "RGBA"
    assert open_picture(encoded(noise("1"))).mode == "RGB"
    with pytest.raises(PictureError, match="floating-point"):
        open_picture(encoded(noise("L").convert("F"), "TIFF"))


def test_cmyk_becomes_rgb():
    picture = open_picture(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))
    assert picture.mode == "RGB" and picture.getpixel((8, 8))[0] > 200 and max(picture.getpixel((8, 8))[1:]) < 60


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    picture = open_picture(encoded(Image.fromarray(ramp)))
    assert np.abs(np.asarray(picture)[..., 0].astype(int).ravel() - np.arange(256)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_s_rotation_is_applied(orientation):
    upright = Image.fromarray(np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)).convert("RGB")
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(open_picture(encoded(stored, exif=exif))), np.asarray(upright))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_used_and_said(format):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    picture = open_picture(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
    red, green, blue = picture.convert("RGB").getpixel((8, 8))
    assert red > 200 and green < 50 and blue < 50
    assert picture.info["notes"] == ["The file holds several frames; only the first is used."]


def test_the_texts_stay_for_whoever_reads_the_settings():
    from studio.infotext import read
    from studio.infotext.embed import encode

    for format in ("png", "jpeg", "webp"):
        assert (
            read(open_picture(encode(noise(), format, "a\nSteps: 5, Sampler: Euler, Seed: 8", "{}"))).values["seed"]
            == 8
        )

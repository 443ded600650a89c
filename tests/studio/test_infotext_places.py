"""Where a picture's text may stand, in every format, byte order and encoding that is in use."""

from __future__ import annotations

import io
import struct
import time
import zlib

import pytest
from PIL import Image, ImageFile, PngImagePlugin

from pipelines.core.errors import PictureError
from studio.infotext import read
from studio.infotext.embed import read_all_texts
from studio.infotext.exif_texts import read_exif_texts
from studio.infotext.xmp_texts import read_xmp_texts

TEXT = "a cät, 狐\nNegative prompt: blurry\nSteps: 25, Sampler: Euler, CFG scale: 7, Seed: 42, Size: 512x768"
PLAIN = TEXT.replace("ä", "a").replace("狐", "fox")
SMALL = Image.new("RGB", (8, 8))


def saved(format: str, picture: Image.Image = SMALL, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def prompt_in(data: bytes) -> str | None:
    with Image.open(io.BytesIO(data)) as picture:
        restored = read(picture)
    return restored and restored.values["prompt"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, behind: bool = False) -> bytes:
    data = saved("PNG")
    place = data.index(b"IEND" if behind else b"IDAT") - 4
    return data[:place] + b"".join(chunks) + data[place:]


CHUNKS = {
    "tEXt in UTF-8": (b"tEXt", b"parameters\0" + TEXT.encode()),
    "zTXt in UTF-8": (b"zTXt", b"parameters\0\0" + zlib.compress(TEXT.encode())),
    "iTXt": (b"iTXt", b"parameters\0\0\0\0\0" + TEXT.encode()),
    "iTXt with a language": (b"iTXt", b"parameters\0\0\0en\0Parameter\0" + TEXT.encode()),
    "iTXt compressed": (b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(TEXT.encode())),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", CHUNKS)
def test_a_png_chunk_before_and_behind_the_pixels(name, behind):
    assert prompt_in(png(chunk(*CHUNKS[name]), behind=behind)) == "a cät, 狐"


def test_latin_1_in_a_text_chunk_stays_what_it_is():
    text = TEXT.replace("狐", "fox")
    assert prompt_in(png(chunk(b"tEXt", b"parameters\0" + text.encode("latin-1")))) == "a cät, fox"


def test_our_own_texts_come_back_whatever_their_bytes_look_like():
    from studio.infotext.embed import encode

    for text in ("Ã¤", "ä", "plain", "狐"):
        found = read_all_texts(Image.open(io.BytesIO(encode(SMALL, "png", text, "{}"))))
        assert found["parameters"] == text


def exif_block(value: bytes, order: str = ">", kind: int = 7, tag: int = 0x9286, main: bool = False) -> bytes:
    """An EXIF block with one field, in the main directory or in the Exif directory."""
    start = b"MM" if order == ">" else b"II"
    entries = struct.pack(f"{order}HHHII", 1, tag, kind, len(value), 26 if main else 44) + bytes(4)
    if main:
        return start + struct.pack(f"{order}HI", 42, 8) + entries + value
    pointer = struct.pack(f"{order}HHHII", 1, 0x8769, 4, 1, 26) + bytes(4)
    return start + struct.pack(f"{order}HI", 42, 8) + pointer + entries + value


COMMENTS = {
    "UNICODE, big-endian": b"UNICODE\0" + TEXT.encode("utf-16-be"),
    "UNICODE, little-endian": b"UNICODE\0" + TEXT.encode("utf-16-le"),
    "UNICODE, with its mark": b"UNICODE\0" + TEXT.encode("utf-16"),
    "UNICODE, UTF-8": b"UNICODE\0" + TEXT.encode(),
    "Unicode": b"Unicode\0" + TEXT.encode("utf-16-le"),
    "ASCII, UTF-8": b"ASCII\0\0\0" + TEXT.encode(),
    "undefined": bytes(8) + TEXT.encode(),
    "no code": TEXT.encode(),
    "no code, with its mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "no code, UTF-16": TEXT.encode("utf-16"),
    "ended by zeros": TEXT.encode() + bytes(3),
}


@pytest.mark.parametrize("main", [False, True])
@pytest.mark.parametrize("order", "><")
@pytest.mark.parametrize("name", COMMENTS)
def test_a_user_comment_in_every_encoding_and_either_directory(name, order, main):
    block = exif_block(COMMENTS[name], order, main=main)
    assert prompt_in(saved("JPEG", exif=b"Exif\0\0" + block)) == "a cät, 狐"


def test_japanese_comments():
    for encoding in ("iso2022_jp", "cp932"):
        block = exif_block(b"JIS\0\0\0\0\0" + TEXT.replace("ä", "a").encode(encoding))
        assert prompt_in(saved("JPEG", exif=b"Exif\0\0" + block)) == "a cat, 狐"


@pytest.mark.parametrize("kind", [2, 7, 129])
@pytest.mark.parametrize("tag", [0x9286, 0x010E])
def test_the_types_of_exif_3(kind, tag):
    block = exif_block(TEXT.encode() + b"\0", kind=kind, tag=tag, main=True)
    assert prompt_in(saved("JPEG", exif=b"Exif\0\0" + block)) == "a cät, 狐"


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "PNG"])
def test_the_formats_that_hold_exif(format):
    for block in (exif_block(COMMENTS["UNICODE, big-endian"]), exif_block(COMMENTS["no code"], "<", 2, main=True)):
        assert prompt_in(saved(format, exif=b"Exif\0\0" + block)) == "a cät, 狐"


@pytest.mark.parametrize("format", ["WEBP", "GIF", "PNG"])
def test_animations(format):
    frames = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), "red")]}
    if format == "GIF":
        data = saved(format, comment=PLAIN.encode(), **frames)
        assert prompt_in(data) == "a cat, fox"
    else:
        data = saved(format, exif=b"Exif\0\0" + exif_block(COMMENTS["UNICODE, big-endian"]), **frames)
        assert prompt_in(data) == "a cät, 狐"


def test_jpeg_comments_even_behind_another_program_s():
    data = saved("JPEG", comment=TEXT.encode())
    assert prompt_in(data) == "a cät, 狐"
    other = b"\xff\xfe" + struct.pack(">H", 2 + 17) + b"Created with GIMP"
    assert prompt_in(data[:2] + other + data[2:]) == "a cät, 狐"
    last = saved("JPEG", comment=b"Created with GIMP")
    mine = b"\xff\xfe" + struct.pack(">H", 2 + len(TEXT.encode())) + TEXT.encode()
    assert prompt_in(last[:2] + mine + last[2:]) == "a cät, 狐"


def test_a_camera_s_comment_does_not_hide_a_generator_s():
    block = exif_block(b"ASCII\0\0\0lens: 50 mm")
    assert prompt_in(saved("JPEG", exif=b"Exif\0\0" + block, comment=TEXT.encode())) == "a cät, 狐"


@pytest.mark.parametrize(
    "body",
    [
        "<exif:UserComment><rdf:Alt><rdf:li xml:lang='x-default'>{}</rdf:li></rdf:Alt></exif:UserComment>",
        "<dc:description><rdf:Alt><rdf:li xml:lang='x-default'>{}</rdf:li></rdf:Alt></dc:description>",
        '<rdf:Description exif:UserComment="{}"/>',
    ],
)
def test_xmp(body):
    escaped = TEXT.replace("\n", "&#10;")
    packet = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{body.format(escaped)}</x:xmpmeta>".encode()
    assert prompt_in(saved("WEBP", xmp=packet)) == "a cät, 狐"
    assert prompt_in(saved("JPEG", xmp=packet)) == "a cät, 狐"
    assert prompt_in(png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))) == "a cät, 狐"


def test_broken_blocks_hold_nothing_and_raise_nothing():
    block = exif_block(COMMENTS["UNICODE, big-endian"])
    for cut in range(0, len(block), 7):
        with Image.open(io.BytesIO(saved("JPEG"))) as picture:
            picture.info["exif"] = b"Exif\0\0" + block[:cut]
            read_all_texts(picture)
            picture.info["exif"] = block[:cut][::-1]
            read_all_texts(picture)
    loop = b"MM" + struct.pack(">HI", 42, 8) + struct.pack(">HHHII", 1, 0x8769, 4, 1, 8) + bytes(4)
    assert prompt_in(saved("JPEG", exif=b"Exif\0\0" + loop)) is None
    far = exif_block(TEXT.encode())[:-200] + b"\xff" * 200
    prompt_in(saved("JPEG", exif=b"Exif\0\0" + far))


def test_a_text_that_inflates_too_far_is_refused_by_name(tmp_path):
    bomb = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"x" * 2**26))
    (tmp_path / "bomb.png").write_bytes(png(bomb))
    with pytest.raises(PictureError, match="compressed text chunk"):
        read(tmp_path / "bomb.png")
    # Behind the pixels Pillow never looks, and our own reader stops inflating at its limit.
    (tmp_path / "behind.png").write_bytes(png(bomb, behind=True))
    restored = read(tmp_path / "behind.png")
    assert restored.values == {} and "too long" in restored.notes[0]


def test_reading_decodes_no_pixel_and_leaves_the_stream_where_it_was(monkeypatch):
    with Image.open(io.BytesIO(png(chunk(*CHUNKS["iTXt"]), behind=True))) as picture:
        place = picture.fp.tell()
        with monkeypatch.context() as patch:
            patch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
            patch.setattr(PngImagePlugin.PngImageFile, "load_prepare", lambda self: pytest.fail("decoded"))
            assert read(picture).values["seed"] == 42
        assert picture.fp.tell() == place
        picture.load()


@pytest.mark.parametrize(
    "packet",
    [
        "<exif:UserComment>" + "<![CDATA[" * 100_000 + "</exif:UserComment>",
        "<exif:UserComment>" * 50_000,
        "<exif:UserComment>" + "<" * 10**6 + "</exif:UserComment>",
        " exif:UserComment='" * 50_000,
        "<exif:UserComment>" + "&" * 10**6 + "</exif:UserComment>",
    ],
)
def test_no_xmp_packet_is_slow(packet):
    began = time.process_time()
    read_xmp_texts(packet)
    assert time.process_time() - began < 3  # a quadratic reading takes minutes


def test_cdata_in_an_xmp_packet():
    packet = "<exif:UserComment>one <![CDATA[<two> &amp;]]> <b>three</b> &amp; <![CDATA[open</exif:UserComment>"
    assert read_xmp_texts(packet)["UserComment"] == "one <two> &amp; three &"


def test_no_exif_block_is_slow():
    began = time.process_time()
    read_exif_texts(b"Exif\0\0" * 10**6)
    many = struct.pack(">HHHII", 65535, 0x9286, 7, 2**31, 8) * 2
    read_exif_texts(b"MM" + struct.pack(">HI", 42, 8) + many + b"x" * 10**7)
    assert time.process_time() - began < 5

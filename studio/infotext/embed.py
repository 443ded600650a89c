"""Texts inside a picture file: put in when it is encoded, taken out without decoding a pixel.

PNG holds them as text chunks, `parameters` (the form that A1111 began) and `stepwise` (our JSON). JPEG and
WebP hold them in EXIF: the parameters as UserComment, the JSON as ImageDescription.
"""

from __future__ import annotations

import io

from PIL import Image, PngImagePlugin

from pipelines.core.errors import StoreError

__all__ = ["FORMATS", "OUR_CHUNK", "clean", "encode", "texts"]

OUR_CHUNK = "stepwise"
FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
"""Formats a picture is written in, and their suffixes."""

_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_IMAGE_DESCRIPTION, _MAKE, _MODEL = 0x010E, 0x010F, 0x0110
_JPEG_SEGMENT = 65_000
"""Bytes of EXIF that a JPEG segment (2 bytes of length) takes, less its header."""


def clean(text: str) -> str:
    """The text without what no file or index can hold: NUL and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def encode(picture: Image.Image, format: str, parameters: str, ours: str) -> bytes:
    """A whole picture file in memory, with both texts in it.

    Args:
        picture: any mode that holds a picture; transparency goes onto white in a JPEG.
        format: a key of `FORMATS`.
        parameters: the A1111-style text; empty for none.
        ours: our JSON; empty for none.

    Raises:
        StoreError: an unknown format, or a picture or text that the format cannot hold.
    """
    if format not in FORMATS:
        raise StoreError(f"Unknown picture format {str(format)[:80]!r}. Choose one of: {', '.join(FORMATS)}.")
    parameters, ours = clean(parameters), clean(ours)
    buffer = io.BytesIO()
    try:
        if format == "png":
            _storable(picture).save(buffer, "PNG", pnginfo=_chunks(parameters, ours))
        else:
            exif = _exif(parameters, ours, limit=_JPEG_SEGMENT if format == "jpeg" else None)
            if format == "jpeg":
                _on_white(picture).save(buffer, "JPEG", quality=93, subsampling=0, exif=exif)
            else:
                _storable(picture).save(buffer, "WEBP", quality=92, exif=exif)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"A picture of {picture.width} × {picture.height} cannot be written as {format} ({error}). "
            "Save it as png instead."
        ) from error
    return buffer.getvalue()


def _storable(picture: Image.Image) -> Image.Image:
    if picture.mode in {"L", "RGB", "RGBA"}:
        return picture
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _on_white(picture: Image.Image) -> Image.Image:
    picture = _storable(picture)
    if picture.mode != "RGBA":
        return picture
    paper = Image.new("RGB", picture.size, "white")
    paper.paste(picture, mask=picture.getchannel("A"))
    return paper


def _chunks(parameters: str, ours: str) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    if parameters:
        chunks.add_text("parameters", parameters)  # tEXt where Latin-1 suffices, else iTXt, as A1111 does
    if ours:
        chunks.add_text(OUR_CHUNK, ours)
    return chunks


def _exif(parameters: str, ours: str, limit: int | None) -> bytes:
    # Where both are too long for one JPEG segment, the parameters give way: the JSON holds everything.
    for comment in (parameters, ""):
        exif = Image.Exif()
        if ours:
            exif[_IMAGE_DESCRIPTION] = ours.encode()
        if comment:
            exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + comment.encode("utf-16-be")
        data = exif.tobytes()
        if limit is None or len(data) <= limit:
            return data
    raise ValueError("its settings are too long for that format")


def texts(picture: Image.Image) -> dict[str, str]:
    """The texts of an opened, not yet decoded, picture by their names.

    Args:
        picture: as `Image.open` returns it.

    Returns:
        PNG text chunks under their own keywords; from EXIF or a comment, "parameters", "stepwise" (only
        where it is JSON), "prompt" and "workflow" (ComfyUI's WebP). Unchecked: anything may be in them.
    """
    found = {key: value for key, value in picture.info.items() if isinstance(key, str) and isinstance(value, str)}
    for key, value in _exif_texts(picture).items():
        found.setdefault(key, value)
    comment = picture.info.get("comment")
    if isinstance(comment, bytes) and comment:
        found.setdefault("parameters", comment.decode("utf-8", "replace"))
    return found


def _exif_texts(picture: Image.Image) -> dict[str, str]:
    if picture.format == "PNG" and "exif" not in picture.info:
        return {}  # Pillow would decode the whole picture to look for more
    try:
        exif = picture.getexif()
        inner = exif.get_ifd(_EXIF_IFD)
    except Exception:  # Pillow raises a dozen kinds on broken EXIF: the picture is good, its EXIF holds nothing
        return {}
    found = {}
    comment = inner.get(_USER_COMMENT)
    if isinstance(comment, (bytes, str)) and comment:
        found["parameters"] = comment if isinstance(comment, str) else _user_comment(comment)
    ours = exif.get(_IMAGE_DESCRIPTION)
    if isinstance(ours, str) and ours.startswith("{"):
        found[OUR_CHUNK] = _utf8(ours)
    for tag in (_MAKE, _MODEL):
        value = exif.get(tag)
        for key in ("prompt", "workflow"):
            if isinstance(value, str) and value.lower().startswith(f"{key}:"):
                found[key] = _utf8(value[len(key) + 1 :])
    return found


def _utf8(text: str) -> str:
    # Pillow decodes EXIF's ASCII fields as Latin-1; what stands in them is UTF-8.
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _user_comment(data: bytes) -> str:
    code, body = data[:8], data[8:]
    if code == b"UNICODE\0":
        if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return body.decode("utf-16", "replace")
        # EXIF leaves the byte order open. A1111 writes big-endian, some others little-endian; most characters
        # of any settings text are ASCII, whose zero byte comes first only in big-endian.
        little = body[1::2].count(0) > body[0::2].count(0)
        return body.decode("utf-16-le" if little else "utf-16-be", "replace")
    return (body if code in (b"ASCII\0\0\0", b"\0" * 8) else data).decode("utf-8", "replace").strip("\0")

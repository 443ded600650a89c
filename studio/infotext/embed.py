"""Texts inside a picture file: put in when it is encoded, taken out without decoding a pixel.

PNG holds them as text chunks, `parameters` (the form that A1111 began) and `stepwise` (our JSON). JPEG and
WebP hold them in EXIF: the parameters as UserComment, the JSON as ImageDescription.
"""

from __future__ import annotations

import io

from PIL import Image, JpegImagePlugin, PngImagePlugin

from pipelines.core.errors import StoreError
from studio.infotext.exif_texts import decode_comment, read_exif_texts
from studio.infotext.png_texts import EXIF, MAX_CHUNK_TEXT, decode_text, read_png_texts
from studio.infotext.xmp_texts import read_xmp_texts
from studio.media.colors import to_srgb

__all__ = ["FORMATS", "OUR_CHUNK", "clean", "encode", "read_all_texts"]

OUR_CHUNK = "stepwise"
FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
"""Formats a picture is written in, and their suffixes."""

_MOST_COMMENTS = 20  # of a JPEG that are read
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_IMAGE_DESCRIPTION = 0x010E
_JPEG_SEGMENT = 65_000
"""Bytes of EXIF that a JPEG segment (2 bytes of length) takes, less its header."""


def clean(text: str) -> str:
    """Return the text without what no file or index can hold: NUL and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def encode(picture: Image.Image, format: str, parameters: str, own_json: str) -> bytes:
    """Encode a whole picture file in memory, with both texts in it.

    Args:
        picture: any mode that holds a picture; transparency goes onto white in a JPEG.
        format: a key of `FORMATS`.
        parameters: the A1111-style text; empty for none.
        own_json: our JSON; empty for none.

    Raises:
        StoreError: an unknown format, or a picture or text that the format cannot hold.
    """
    if format not in FORMATS:
        raise StoreError(f"Unknown picture format {str(format)[:80]!r}. Choose one of: {', '.join(FORMATS)}.")
    parameters, own_json = clean(parameters), clean(own_json)
    picture, _ = to_srgb(picture)  # what is written carries no profile
    buffer = io.BytesIO()
    try:
        if format == "png":
            _convert_to_storable(picture).save(buffer, "PNG", pnginfo=_build_chunks(parameters, own_json))
        else:
            exif = _build_exif(parameters, own_json, limit=_JPEG_SEGMENT if format == "jpeg" else None)
            if format == "jpeg":
                _on_white(picture).save(buffer, "JPEG", quality=93, subsampling=0, exif=exif)
            else:
                _convert_to_storable(picture).save(buffer, "WEBP", quality=92, exif=exif)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"A picture of {picture.width} × {picture.height} cannot be written as {format} ({error}). "
            "Save it as png instead."
        ) from error
    return buffer.getvalue()


def _convert_to_storable(picture: Image.Image) -> Image.Image:
    if picture.mode in {"L", "RGB", "RGBA"}:
        return picture
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _on_white(picture: Image.Image) -> Image.Image:
    picture = _convert_to_storable(picture)
    if picture.mode != "RGBA":
        return picture
    paper = Image.new("RGB", picture.size, "white")
    paper.paste(picture, mask=picture.getchannel("A"))
    return paper


def _build_chunks(parameters: str, own_json: str) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    for name, text in (("parameters", parameters), (OUR_CHUNK, own_json)):
        if not text:
            continue
        if text.isascii():
            chunks.add_text(name, text)
        else:  # tEXt would be Latin-1, which readers that expect UTF-8 there may take for something else
            chunks.add_itxt(name, text)
    return chunks


def _build_exif(parameters: str, own_json: str, limit: int | None) -> bytes:
    # Where both are too long for one JPEG segment, the parameters give way: the JSON holds everything.
    for comment in (parameters, ""):
        exif = Image.Exif()
        if own_json:
            exif[_IMAGE_DESCRIPTION] = own_json.encode()
        if comment:
            exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + comment.encode("utf-16-be")
        data = exif.tobytes()
        if limit is None or len(data) <= limit:
            return data
    raise ValueError("its settings are too long for that format")


def read_all_texts(picture: Image.Image) -> dict[str, str]:
    """Read the texts of an opened, not yet decoded, picture by their names.

    Args:
        picture: as `Image.open` returns it.

    Returns:
        PNG text chunks under their own keywords; the fields of EXIF and XMP under the names of their EXIF tags; a
        JPEG's comments as "comment", "comment 2" and so on; and where no chunk is called so, "parameters" (a
        UserComment or a comment), "stepwise" (a description in JSON), "prompt" and "workflow" (ComfyUI's WebP).
        Unchecked: anything may be in them.
    """
    chunks = _read_chunk_texts(picture)
    exif, fields = chunks.pop(EXIF, "").encode("latin-1"), _read_field_texts(picture, chunks)
    fields |= read_exif_texts(exif)
    comments = _read_comments(picture)
    merged = {**chunks, **{name: text for name, text in fields.items() if name not in chunks}}
    merged |= {f"comment {number}" if number > 1 else "comment": text for number, text in enumerate(comments, 1)}
    if parameters := fields.get("UserComment") or next(iter(comments), ""):
        merged.setdefault("parameters", parameters)
    if fields.get("ImageDescription", "").startswith("{"):
        merged.setdefault(OUR_CHUNK, fields["ImageDescription"])
    for value in (fields.get(name, "") for name in ("Make", "Model", "ImageDescription")):
        name, colon, text = value.partition(":")
        if colon and name.lower() in ("prompt", "workflow"):
            merged.setdefault(name.lower(), text)
    return merged


def _read_chunk_texts(picture: Image.Image) -> dict[str, str]:
    if isinstance(picture, PngImagePlugin.PngImageFile) and picture.fp is not None:
        return read_png_texts(picture.fp)
    # Pillow reads tEXt as Latin-1 and knows an iTXt from it; what stands in either is mostly UTF-8.
    info_texts = {name: text for name, text in picture.info.items() if isinstance(name, str) and isinstance(text, str)}
    return {
        name: str(text) if isinstance(text, PngImagePlugin.iTXt) else _decode_as_utf8(text)
        for name, text in info_texts.items()
        if name not in ("comment", EXIF)
    }


def _read_field_texts(picture: Image.Image, chunks: dict[str, str]) -> dict[str, str]:
    packet = chunks.get("XML:com.adobe.xmp", picture.info.get("xmp", ""))
    if isinstance(packet, bytes):
        packet = packet.decode("utf-8", "replace")
    exif = picture.info.get("exif")
    return read_xmp_texts(packet) | (read_exif_texts(exif) if isinstance(exif, bytes) else {})


def _read_comments(picture: Image.Image) -> list[str]:
    """JPEG's and GIF's comments in the file's order."""
    segments = picture.applist if isinstance(picture, JpegImagePlugin.JpegImageFile) else []
    segments_data = [data for name, data in segments if name == "COM"][:_MOST_COMMENTS]
    if not segments_data and isinstance(comment := picture.info.get("comment"), (bytes, str)):
        return [comment if isinstance(comment, str) else decode_comment(comment[:MAX_CHUNK_TEXT])]
    return [decode_comment(data[:MAX_CHUNK_TEXT]) for data in segments_data]


def _decode_as_utf8(text: str) -> str:
    try:
        return decode_text(text.encode("latin-1"))
    except UnicodeError:
        return text

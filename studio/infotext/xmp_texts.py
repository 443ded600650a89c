"""The comment and the description in an XMP packet, read without an XML parser, which hostile files could exhaust."""

from __future__ import annotations

import html
import re

__all__ = ["read_xmp_texts"]

_MAX_PACKET = 2 * 2**20
_TAGS = {
    "UserComment": "exif:UserComment",
    "ImageDescription": "dc:description",
    "Software": "xmp:CreatorTool",
}
_MARKUP = re.compile(r"<[^<>]*>")


def read_xmp_texts(packet: str) -> dict[str, str]:
    """Read the texts by the names of EXIF's tags of the same meaning; empty ones are left out."""
    packet = packet[:_MAX_PACKET]
    texts = {}
    for name, tag in _TAGS.items():
        text = _strip_markup(_find_content(packet, tag)).strip()
        if text:
            texts[name] = text
    return texts


def _find_content(packet: str, tag: str) -> str:
    """What stands between an element's tags, or in the attribute of its name."""
    tag_match = re.search(rf"<{tag}(?=[\s>])[^<>]*>", packet)
    if tag_match:
        end = packet.find(f"</{tag}>", tag_match.end())
        return packet[tag_match.end() : end] if end >= 0 else ""
    attribute = re.search(rf"""\s{tag}\s*=\s*("[^"]*"|'[^']*')""", packet)
    return attribute[1][1:-1] if attribute else ""


def _strip_markup(markup: str) -> str:
    """The text of an element, without its inner elements."""
    first, *sections = markup.split("<![CDATA[")
    parts = [html.unescape(_MARKUP.sub("", first))]
    for section in sections:
        literal, end, tail = section.partition("]]>")
        parts += [literal, html.unescape(_MARKUP.sub("", tail))] if end else []
    return "".join(parts)

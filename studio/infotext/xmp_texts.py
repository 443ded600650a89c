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
    """The texts by the names of EXIF's tags of the same meaning; empty ones are left out."""
    packet = packet[:_MAX_PACKET]
    found = {}
    for name, tag in _TAGS.items():
        text = _plain(_content(packet, tag)).strip()
        if text:
            found[name] = text
    return found


def _content(packet: str, tag: str) -> str:
    """What stands between an element's tags, or in the attribute of its name."""
    opened = re.search(rf"<{tag}(?=[\s>])[^<>]*>", packet)
    if opened:
        end = packet.find(f"</{tag}>", opened.end())
        return packet[opened.end() : end] if end >= 0 else ""
    attribute = re.search(rf"""\s{tag}\s*=\s*("[^"]*"|'[^']*')""", packet)
    return attribute[1][1:-1] if attribute else ""


def _plain(markup: str) -> str:
    """The text of an element, without its inner elements."""
    first, *others = markup.split("<![CDATA[")
    parts = [html.unescape(_MARKUP.sub("", first))]
    for other in others:
        literal, closed, rest = other.partition("]]>")
        parts += [literal, html.unescape(_MARKUP.sub("", rest))] if closed else []
    return "".join(parts)

"""Bounds for what the page sends while somebody draws, before it is known whether it will be used."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.errors import PictureError
from studio.safety.uploads import check_picture

__all__ = ["KEPT", "Drawn", "check_drawing"]

KEPT = 64
"""Drawings that are kept, of everybody together; each is taken out when its run begins, a moment after it was sent."""

_PARTS = ("background", "composite", "layer")
_LONGEST_ID = 64
_BYTES = 8 * 2**20


class Drawn(OrderedDict):
    """A mapping that forgets the oldest entries.

    Args:
        kept: how many it holds.
    """

    def __init__(self, kept: int = KEPT):
        super().__init__()
        self.kept = kept

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self.kept:
            self.popitem(last=False)


def check_drawing(fields: Mapping[str, Any], files: Sequence[bytes], pixels: int) -> None:
    """Whether one part of a drawing is what the page sends.

    Args:
        fields: "type", "index" of a layer, and "id", as text.
        files: one picture file.
        pixels: the most that it may have.

    Raises:
        PictureError: it is something else.
    """
    index, identity = str(fields.get("index") or "0"), str(fields.get("id") or "")
    known = fields.get("type") in _PARTS and index in ("0", "null") and 0 < len(identity) <= _LONGEST_ID
    if not known or len(files) != 1 or len(files[0]) > _BYTES:
        raise PictureError("The drawing could not be read. Reload the page and draw it again.")
    check_picture(io.BytesIO(files[0]), pixels)

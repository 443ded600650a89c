"""Bounds for what the page sends while somebody draws, before it is known whether it will be used."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from pipelines.core.errors import PictureError
from studio.safety.uploads import check_picture

__all__ = ["CAPACITY", "Drawings", "check_drawing"]

CAPACITY = 64
"""Drawings that are kept, of everybody together; each is taken out when its run begins, a moment after it was sent."""

_PARTS = ("background", "composite", "layer")
_LONGEST_ID = 64
_BYTES = 8 * 2**20


class Drawings(OrderedDict):
    """Forgets the oldest entries of a mapping.

    Args:
        capacity: how many it holds.
    """

    def __init__(self, capacity: int = CAPACITY):
        super().__init__()
        self.capacity = capacity

    def __setitem__(self, key: str, value: object) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self.capacity:
            self.popitem(last=False)


def check_drawing(fields: Mapping[str, object], files: Sequence[bytes], pixels: int) -> None:
    """Raise an error unless one part of a drawing is what the page sends.

    Args:
        fields: "type", "index" of a layer, and "id", as text.
        files: one picture file.
        pixels: the most that it may have.

    Raises:
        PictureError: it is something else.
    """
    index, identity = str(fields.get("index") or "0"), str(fields.get("id") or "")
    is_known = fields.get("type") in _PARTS and index in ("0", "null") and 0 < len(identity) <= _LONGEST_ID
    if not is_known or len(files) != 1 or len(files[0]) > _BYTES:
        raise PictureError("The mask could not be read. Reload the page and draw it again.")
    check_picture(io.BytesIO(files[0]), pixels)

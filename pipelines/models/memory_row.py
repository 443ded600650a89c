"""A line of the memory bar."""

from __future__ import annotations

import dataclasses

__all__ = ["MemoryRow"]


@dataclasses.dataclass(frozen=True)
class MemoryRow:
    """Describes one part for a memory bar.

    Attributes:
        label: the part's name, e.g. "unet".
        models: keys of the models that use it.
        bytes: that it takes.
        device: where it is; "host" for parts that come to the device only for a call.
        in_use: how many jobs hold it.
        state: "reserved", "loading", "ready" or "freeing".
    """

    label: str
    models: tuple[str, ...]
    bytes: int
    device: str
    in_use: int
    state: str

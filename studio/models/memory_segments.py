"""How the device's memory is shared among the loaded models."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pipelines.models.device_choice import DeviceMemory, name_device, read_memory
from pipelines.models.loader import HOST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.models.loader import Loader
    from pipelines.models.memory_row import MemoryRow

__all__ = ["DeviceRow", "Segment", "list_devices", "list_memory_segments"]


@dataclasses.dataclass(frozen=True)
class Segment:
    """Describes a share of the memory: what one model, or several together, hold of it."""

    models: tuple[str, ...]
    bytes: int
    in_use: bool


@dataclasses.dataclass(frozen=True)
class DeviceRow:
    """Describes a device and what is in its memory.

    Attributes:
        device: as PyTorch names it.
        name: as its maker does; "CPU" for none.
        memory: all of it and what is free; None of the CPU.
        segments, limit: of `list_memory_segments`.
    """

    device: str
    name: str
    memory: DeviceMemory | None
    segments: list[Segment]
    limit: int


def list_devices(loaders: Sequence[Loader]) -> list[DeviceRow]:
    """List the devices with what is in their memory at this moment."""
    return [
        DeviceRow(loader.device, name_device(loader.device), read_memory(loader.device), *list_memory_segments(loader))
        for loader in loaders
    ]


def list_memory_segments(loader: Loader) -> tuple[list[Segment], int]:
    """List what models hold of the device's memory, the largest first, and the bytes that they may hold in all."""
    rows_by_models: dict[tuple[str, ...], list[MemoryRow]] = {}
    for row in loader.memory():
        if row.device == HOST:
            continue  # in the computer's memory, which has a budget of its own
        rows_by_models.setdefault(row.models, []).append(row)
    segments = [
        Segment(models, sum(row.bytes for row in rows), any(row.in_use for row in rows))
        for models, rows in rows_by_models.items()
    ]
    return sorted(segments, key=lambda one: -one.bytes), loader.cache.limit

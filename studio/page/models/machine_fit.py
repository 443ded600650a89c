"""Whether a model suits this machine: its size beside what models may hold, the device and the disk."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.models.entry import CatalogEntry
from pipelines.models.placing import DOES_NOT_FIT
from studio.ui.presentation import format_file_size

if TYPE_CHECKING:
    from pipelines.models.loader import Loader

__all__ = ["GOOD", "NO", "SLOW", "Machine", "describe_fit", "read_free_disk", "read_machine", "recommend"]

GOOD, SLOW, NO = "good", "slow", "no"

_ROOM = 0.75
"""Share of the memory that a model's weights may take where a run's own tensors and pictures should fit beside them."""

_QUICK_WITHOUT_GPU = 10**9
"""Bytes from which a processor takes seconds to minutes for a step: Stable Diffusion 1.5 is twice as large
(`python -m pipelines.benchmark sizes`, docs/devices.md)."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """Describes what a model meets here.

    Attributes:
        memory: bytes that models may hold of the device, the largest of several.
        has_gpu: whether the device is one.
        free_disk: bytes that are free where models are downloaded to.
    """

    memory: int
    has_gpu: bool
    free_disk: int


def read_machine(loaders: Iterable[Loader]) -> Machine:
    """Look at the devices, and at the disk that downloads go to, as they are now."""
    from huggingface_hub.constants import HF_HUB_CACHE  # late: it imports much, and only this tab needs it

    memory, device = max((loader.cache.limit, loader.device) for loader in loaders)
    return Machine(memory, device != "cpu", read_free_disk(Path(HF_HUB_CACHE)))


def read_free_disk(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    folder = folder.absolute()
    return shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free


def describe_fit(entry: CatalogEntry, is_here: bool, machine: Machine, placement: str = "") -> tuple[str, str]:
    """Return `GOOD`, `SLOW` or `NO`, and a sentence for the person; both empty where the size is not known.

    Args:
        entry: of the catalog; its size is that of the download, and the memory that it takes is about as large.
        is_here: whether it is on this machine already.
        machine: of `read_machine`.
        placement: what is planned for its parts on a GPU, as a sentence; "" where nothing is.
    """
    size = entry.size_bytes
    if not size or entry.problem:
        return "", ""
    if not is_here and size > machine.free_disk:
        return NO, f"No room on the disk: {format_file_size(machine.free_disk)} free."
    if placement.startswith(DOES_NOT_FIT):
        return NO, placement
    if size > machine.memory:
        memory = f"Larger than the {format_file_size(machine.memory)} that models may hold"
        parts = placement or f"{memory}: runs part by part, slower."
        return (SLOW, parts) if machine.has_gpu else (NO, f"{memory}.")
    if not machine.has_gpu and size > _QUICK_WITHOUT_GPU:
        return SLOW, "Fits in memory; slow without a GPU."
    if size > _ROOM * machine.memory:
        return SLOW, placement or "Fits in memory with little room for large pictures."
    return GOOD, "Fits this machine."


def recommend(entries: Iterable[tuple[CatalogEntry, bool]], machine: Machine) -> str:
    """Return the key of the largest picture model that fits well, "" where none does.

    Args:
        entries: each with whether it is on this machine. Those with an unconfirmed license, one to accept first, or a
            pipeline of their own are left out: what is recommended runs at once, with every method.
        machine: of `read_machine`.
    """
    fitting = [
        entry
        for entry, is_here in entries
        if entry.kind == "image"
        and entry.family != "stock"
        and not (entry.gated or (not entry.licence and not entry.local))
        and describe_fit(entry, is_here, machine)[0] == GOOD
    ]
    return max(fitting, key=lambda entry: entry.size_bytes or 0).key if fitting else ""

"""Where the parts of a model stay while a job runs, so that what does not fit whole still runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.core.leases import PartKey
from pipelines.models.catalog_folder import TINY_VAE
from pipelines.models.files import PartFiles
from pipelines.models.plan import Plan
from pipelines.weights.files import bytes_as
from pipelines.weights.gguf_files import read_weights_header

__all__ = ["HOST", "Placement", "place_parts"]

NETWORKS = frozenset({"unet", "transformer", "transformer_2", "prior", TINY_VAE, "controlnet", "ip_adapter"})
"""Parts that every step calls, which come and go last."""

HOST = "host"
"""The device in the keys of parts that wait in the computer's memory."""

_LAYERS_AT_ONCE = 3
"""Of a part that is streamed, layers as large as its largest that may be on the device: one that computes, one whose
memory is not given back yet, and what it unpacks."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where each part is.

    Attributes:
        resident: parts that stay on the device, by name.
        moved: parts that wait in the computer's memory and come to the device one at a time, when they are called.
        streamed: those of `moved` of which one layer at a time comes.
        room: bytes of the device for the largest of what comes and goes.
        sentence: the plan, for the person.
    """

    resident: Mapping[str, PartKey]
    moved: Mapping[str, PartKey]
    streamed: frozenset[str]
    room: int
    sentence: str


def place_parts(plan: Plan, limit: int, has_host: bool) -> Placement:
    """Choose the fastest placement that fits; where none does, that of a model that fits whole, which is then refused.

    Args:
        plan: of the model.
        limit: bytes of the device that models may take.
        has_host: whether parts can wait in the computer's memory.
    """
    sizes = {name: plan.estimates[key] for name, key in plan.keys.items()}
    whole = Placement(plan.keys, {}, frozenset(), 0, "The model fits whole.")
    if sum(sizes.values()) <= limit or not has_host or plan.checkpoint:
        return whole
    # A quantized network's packed tensors cannot be moved, with every library that packs them.
    movable = [
        name for name, key in plan.keys.items() if not (_is_light(plan, name) or key.quantization or name == TINY_VAE)
    ]
    if not movable:
        return whole
    encoders = [name for name in movable if name not in NETWORKS]
    words = "Text encoders and VAE come to the device for their calls only: each picture starts a little later."
    found = _place(plan, sizes, encoders, frozenset(), words)
    if encoders and _fits(found, sizes, limit):
        return found
    words = "The parts take turns on the device, one stage after the other: each picture starts a little later."
    found = _place(plan, sizes, movable, frozenset(), words)
    if _fits(found, sizes, limit):
        return found
    resident = sum(size for name, size in sizes.items() if name not in movable)
    for most in (limit - resident, limit // 2):
        streamed = frozenset(name for name in movable if sizes[name] > most)
        named = " and ".join(sorted(name.replace("_", " ") for name in streamed))
        words = f"The device holds one layer at a time of the {named}: each use waits for its weights to arrive."
        found = _place(plan, sizes, movable, streamed, words)
        if _fits(found, sizes, limit):
            return found
    return whole


def _place(
    plan: Plan, sizes: Mapping[str, int], names: list[str], streamed: frozenset[str], sentence: str
) -> Placement:
    moved = {name: plan.keys[name]._replace(device=f"{HOST} streamed" if name in streamed else HOST) for name in names}
    rooms = [_streaming_room(plan.parts[name], plan.keys[name]) if name in streamed else sizes[name] for name in names]
    resident = {name: key for name, key in plan.keys.items() if name not in moved}
    return Placement(resident, moved, streamed, max(rooms, default=0), sentence)


def _fits(placement: Placement, sizes: Mapping[str, int], limit: int) -> bool:
    return sum(sizes[name] for name in placement.resident) + placement.room <= limit


def _is_light(plan: Plan, name: str) -> bool:
    part = plan.parts[name]
    return part is not None and part.light


def _streaming_room(part: PartFiles | None, key: PartKey) -> int:
    """Bytes of the largest layers that are on the device at once."""
    tensors = [
        tensor for path in (part.weights if part else ()) for tensor in read_weights_header(path).tensors.values()
    ]
    return _LAYERS_AT_ONCE * max(bytes_as([tensor], key.dtype) for tensor in tensors)

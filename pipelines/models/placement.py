"""Where the parts of a model stay while a job runs, so that what does not fit whole still runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from pipelines.core.leases import PartKey
from pipelines.models.catalog_folder import TINY_VAE
from pipelines.models.files import PartFiles
from pipelines.models.plan import QUANTIZED_PARTS, Plan
from pipelines.models.steering_entry import ADAPTER
from pipelines.weights.files import bytes_as

__all__ = ["EIGHT_BITS", "HOST", "STREAMED", "Placement", "place_parts"]

NETWORKS = frozenset({"unet", "transformer", "transformer_2", "prior", TINY_VAE, "controlnet", "ip_adapter"})
"""Parts that every step calls, which come and go last."""

_EACH_STEP = frozenset({"unet", "transformer", "controlnet"})
"""Of them, those that are called in turn within a step: two that share one place would drive each other out in each."""

HOST, STREAMED = "host", "host streamed"
"""The devices in the keys of parts that wait in the computer's memory, and come whole or layer by layer."""

EIGHT_BITS = "fp8"
"""The quantization in the key of a network whose weights are stored in fp8 because they fit no other way."""

_LAYERS_AT_ONCE = 3
"""Of a part that is streamed, layers as large as its largest that may be on the device: one that computes, one whose
memory is not given back yet, and what it unpacks."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where each part is.

    Attributes:
        resident: parts that stay on the device, by name.
        sizes: bytes of all parts, by name, as they are stored.
        moved: parts that wait in the computer's memory and come to the device one at a time, when they are called.
        streamed: those of `moved` of which one layer at a time comes.
        room: bytes of the device for the largest of what comes and goes.
        sentence: the plan, for the person.
        fits: whether device and computer hold it.
    """

    resident: Mapping[str, PartKey]
    sizes: Mapping[str, int]
    moved: Mapping[str, PartKey] = dataclasses.field(default_factory=dict)
    streamed: frozenset[str] = frozenset()
    room: int = 0
    sentence: str = "The model fits whole."
    fits: bool = False


@dataclasses.dataclass(frozen=True)
class _Try:
    """A way to place a model that is looked at.

    Attributes:
        sizes: bytes by part, as they would be stored.
        moved: the parts that wait.
        streamed: those of them that come layer by layer.
        packed: parts whose weights are stored in fp8, whether they wait or stay.
        sentence: what it means, for the person.
    """

    sizes: Mapping[str, int]
    moved: Sequence[str] = ()
    streamed: frozenset[str] = frozenset()
    packed: frozenset[str] = frozenset()
    sentence: str = "The model fits whole."


def place_parts(plan: Plan, limit: int, host_limit: int | None) -> Placement:
    """Choose the fastest placement that fits; where none does, that of a model that fits whole, which is then refused.

    Args:
        plan: of the model.
        limit: bytes of the device that models may take.
        host_limit: bytes of the computer's memory for parts that wait there; None where none can.
    """
    sizes = {name: plan.estimates[key] for name, key in plan.keys.items()}
    found = [_place(plan, one, limit, host_limit or 0) for one in [_Try(sizes)]]
    if not found[0].fits and host_limit is not None:
        found += (_place(plan, one, limit, host_limit) for one in _list_tries(plan, sizes, limit))
    return next((one for one in found if one.fits), found[0])


def _list_tries(plan: Plan, sizes: Mapping[str, int], limit: int) -> Iterator[_Try]:
    # A quantized network's packed tensors cannot be moved, with every library that packs them.
    movable = [
        name
        for name, key in plan.keys.items()
        if not (plan.require_part(name).light or key.quantization or name == TINY_VAE)
    ]
    encoders = [name for name in movable if name.partition("@")[0] not in NETWORKS]
    words = "Text encoders and VAE come to the device for their calls only: each picture starts a little later."
    yield _Try(sizes, encoders, sentence=words)
    # An IP-Adapter's layers are called one by one, by the network's: it stays as long as it can.
    stages = [name for name in movable if name != ADAPTER]
    if not _list_alternating(sizes, stages):
        words = "The parts take turns on the device, one stage after the other: each picture starts a little later."
        yield _Try(sizes, stages, sentence=words)
    yield from _list_streamed(sizes, stages, limit)
    if stages != movable:
        yield from _list_streamed(sizes, movable, limit)
    packed = frozenset(
        name for name in movable if name.partition("@")[0] in QUANTIZED_PARTS and not _is_gguf(plan, name)
    )
    if packed:
        smaller = {**sizes, **{name: _count_eight_bits(plan, name) for name in packed}}
        words = (
            " The network's weights are stored in 8 bits (fp8), since memory holds no more: pictures change a little."
        )
        stays = "Text encoders and VAE come to the device for their calls only."
        turns = "The parts take turns on the device."
        for one in (
            _Try(smaller, encoders, sentence=stays),
            *_list_streamed(smaller, encoders, limit),
            *([] if _list_alternating(smaller, movable) else [_Try(smaller, movable, sentence=turns)]),
            *_list_streamed(smaller, movable, limit),
        ):
            yield dataclasses.replace(one, packed=packed, sentence=f"{one.sentence}{words}")


def _list_alternating(sizes: Mapping[str, int], movable: Sequence[str]) -> frozenset[str]:
    """Of parts that wait, those that must come layer by layer: all but the largest network that each step calls, and an
    IP-Adapter, which is never called as a whole."""
    networks = sorted((name for name in movable if name.partition("@")[0] in _EACH_STEP), key=lambda name: sizes[name])
    return frozenset([*networks[:-1], *(name for name in movable if name == ADAPTER)])


def _list_streamed(sizes: Mapping[str, int], movable: Sequence[str], limit: int) -> Iterator[_Try]:
    resident = sum(size for name, size in sizes.items() if name not in movable)
    alternating = _list_alternating(sizes, movable)
    for most in (limit - resident, limit // 2):
        streamed = alternating | {name for name in movable if sizes[name] > most}
        named = " and ".join(sorted(name.replace("_", " ") for name in streamed))
        words = f"The device holds one layer at a time of the {named}: each use waits for its weights to arrive."
        if streamed:
            yield _Try(sizes, movable, streamed, sentence=words)


def _place(plan: Plan, one: _Try, limit: int, host_limit: int) -> Placement:
    moved = {
        name: plan.keys[name]._replace(
            device=STREAMED if name in one.streamed else HOST, quantization=EIGHT_BITS if name in one.packed else ""
        )
        for name in one.moved
    }
    rooms = [
        _count_streaming_room(plan.require_part(name), plan.keys[name]) if name in one.streamed else one.sizes[name]
        for name in moved
    ]
    resident = {
        name: key._replace(quantization=EIGHT_BITS) if name in one.packed else key
        for name, key in plan.keys.items()
        if name not in moved
    }
    room = max(rooms, default=0)
    fits = sum(one.sizes[name] for name in resident) + room <= limit
    fits = fits and sum(one.sizes[name] for name in moved) <= host_limit
    return Placement(resident, one.sizes, moved, one.streamed, room, one.sentence, fits)


def _count_streaming_room(part: PartFiles, key: PartKey) -> int:
    """Bytes of the largest layers that are on the device at once."""
    return _LAYERS_AT_ONCE * max(bytes_as([tensor], key.dtype) for tensor in part.tensors())


def _count_eight_bits(plan: Plan, name: str) -> int:
    """Bytes of a network whose matrices and convolutions are stored in a byte a weight."""
    dtype = plan.keys[name].dtype
    plain = [bytes_as([one], dtype) if len(one.shape) < 2 else one.count for one in plan.require_part(name).tensors()]
    return int(1.05 * sum(plain)) + 4096


def _is_gguf(plan: Plan, name: str) -> bool:
    return any(path.suffix.lower() == ".gguf" for path in plan.require_part(name).weights)

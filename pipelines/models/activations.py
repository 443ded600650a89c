"""What a network's evaluation needs of a device's memory beside the weights: estimated by shape, then measured."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pipelines.weights.files import DTYPE_BYTES

if TYPE_CHECKING:
    import torch

__all__ = ["Work", "estimate_activations", "measured_activations"]

_PER_PLACE = {"sd": 17_000, "sdxl": 8_000, "sd3": 10_000, "flux": 32_000}
"""Bytes in half precision for each row and each place of the latents, 8 x 8 pixels: peaks of networks of the published
widths at 256 and 512 pixels on the tests' stand-in device, of all but the first carried on to 1024."""

_PIXELS_OF_A_PLACE = 64


@dataclasses.dataclass(frozen=True)
class Work:
    """Says what a job gives a network at once.

    Attributes:
        rows: pictures times the branches of guidance.
        width, height: in pixels.
    """

    rows: int
    width: int
    height: int

    @property
    def places(self) -> int:
        """Places of all rows' latents, of 8 x 8 pixels each."""
        return self.rows * self.width * self.height // _PIXELS_OF_A_PLACE


def estimate_activations(family: str, dtype: str, work: Work, measured: float | None = None) -> int:
    """Estimate the bytes that an evaluation takes beside the weights.

    Args:
        family: key of the model's family; of others nothing is known, which counts as 0.
        dtype: of the network.
        work: what it is given.
        measured: bytes a place of this network, where they were measured.
    """
    per_place = measured if measured is not None else _PER_PLACE.get(family, 0) * DTYPE_BYTES[dtype] / 2
    return int(per_place * work.places)


@contextlib.contextmanager
def measured_activations(network: torch.nn.Module, device: str, tell: Callable[[float], None]) -> Iterator[None]:
    """Measure the memory of evaluations while the context lasts, where a device tells it; nothing waits for that.

    Args:
        network: that is evaluated with latents (B, C, h, w), or with tokens of 2 x 2 places (B, n, C).
        device: where it runs.
        tell: called with the bytes a place of an evaluation that took more than any before it.
    """
    import torch

    kind = device.partition(":")[0]
    if kind not in ("cuda", "xpu"):
        yield
        return
    memory, place = getattr(torch, kind), torch.device(device)
    before: list[tuple[int, int, bool]] = []

    def is_here(module: torch.nn.Module) -> bool:
        return all(one.device.type == kind for one in itertools.islice(module.parameters(), 1))

    def begin(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        before[:] = [(memory.memory_allocated(place), memory.max_memory_allocated(place), is_here(module))]

    def end(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: object) -> None:
        held, peak_before, was_here = before[0]
        if is_here(module) and not was_here:
            return  # its weights came for this call, and would count as what it takes beside them
        peak = memory.max_memory_allocated(place)
        places = _count_places(next(iter((*args, *kwargs.values())), None))
        if peak > peak_before and places:
            tell((peak - held) / places)

    hooks = [
        network.register_forward_pre_hook(begin, with_kwargs=True),
        network.register_forward_hook(end, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _count_places(latents: Any) -> int:
    shape: tuple[int, ...] = tuple(getattr(latents, "shape", ()))
    if len(shape) == 4:
        return shape[0] * shape[2] * shape[3]
    return 4 * shape[0] * shape[1] if len(shape) == 3 else 0

"""The next layer's weights on their way to a GPU while the present one computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Prefetch"]


_MOST_CALLS = 4
"""Calls of a layer in one pass beyond which a pass counts as ended."""


@dataclasses.dataclass(frozen=True)
class _Ahead:
    """Describes a layer's weights on their way.

    Attributes:
        sources: the layer, and which tensors were copied.
        copies: on the device, allocated on the stream that copies.
        arrival: the event behind the copies.
    """

    sources: tuple[Hashable, Hashable]
    copies: list[torch.Tensor]
    arrival: Any


def _identify(tensors: Sequence[torch.Tensor]) -> Hashable:
    return tuple((one.data_ptr(), one.dtype, one.shape) for one in tensors)


class Prefetch:
    """Copies the weights of the layer that was called next in the last pass, on a stream of its own.

    A copy is begun once the layer before it has its weights, from pinned memory that is let go with it, so that the
    host's own weights may change between two passes. Where layers are called in another order than last time, the copy
    is dropped and made anew.

    Args:
        device: where the layers are called: one of "cuda" or "xpu", the other kinds have no such streams.

    Source: diffusers, `diffusers.hooks.group_offloading`, "leaf_level" with streams and `record_stream`.
    Differs: nothing is copied back, and no second copy of the weights stays in pinned memory.
    """

    def __init__(self, device: str):
        import torch

        self._device = torch.device(device)
        self._module: Any = getattr(torch, self._device.type)
        self._stream: Any = None
        self._order: list[Hashable] = []
        self._seen: list[Hashable] = []
        self._ahead: _Ahead | None = None
        self._tensors: dict[Hashable, Sequence[torch.Tensor]] = {}

    def begin(self) -> None:
        """Begin a pass of the whole module: what was copied ahead for one that was given up is dropped."""
        self._order, self._seen, self._ahead = self._seen or self._order, [], None

    def bring(self, layer: Hashable, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the tensors on the device, those copied ahead if they are these, and begin to copy the next layer's.

        Args:
            layer: by which it is known again in the next pass.
            tensors: of the host, all that the layer has.
        """
        self._tensors[layer] = tensors
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.sources == (layer, _identify(tensors)):
            found = self._receive(ahead)
        else:
            del ahead
            found = [self._upload(one) for one in tensors]
        # A VAE's decoder is called by another name than the whole module, which begins the pass of others.
        if self._seen and (layer == self._seen[0] or len(self._seen) > _MOST_CALLS * len(self._tensors)):
            self.begin()
        self._seen.append(layer)
        place = len(self._seen)
        if place < len(self._order) and self._order[place - 1] == layer:
            self._fetch(self._order[place])
        return found

    def _receive(self, ahead: _Ahead) -> list[torch.Tensor]:
        present = self._module.current_stream(self._device)
        present.wait_event(ahead.arrival)
        for one in ahead.copies:
            # They were allocated on the other stream, which must not take their memory before this one is done.
            one.record_stream(present)
        return ahead.copies

    def _fetch(self, layer: Hashable) -> None:
        if self._stream is None:
            self._stream = self._module.Stream(self._device)
        with self._module.stream(self._stream):
            copies = [self._upload(one) for one in self._tensors[layer]]
            sources = layer, _identify(self._tensors[layer])
            self._ahead = _Ahead(sources, copies, self._stream.record_event())

    def _upload(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().pin_memory().to(self._device, non_blocking=True)

"""What a quantizer is: it turns one layer of a network at a time into a smaller one."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core.types import Traits

if TYPE_CHECKING:
    import torch

    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["CONVOLUTIONS", "LINEAR", "TINY", "Quantizer", "StorableQuantizer"]

LINEAR = ("Linear",)
CONVOLUTIONS = ("Conv2d",)
"""Names of PyTorch's classes: what only describes a method does not import it."""

TINY = 2.0**-126
"""The least positive number that float32 has in full precision."""


class Quantizer(abc.ABC):
    """Turns one layer at a time into a smaller one.

    Attributes:
        layers: names of the classes in `torch.nn` that it can change, exactly these.
        is_simulated: whether its layers round and then compute in floating point, and so save neither time nor memory.
    """

    layers: tuple[str, ...] = LINEAR
    is_simulated = False

    @abc.abstractmethod
    def quantize(self, layer: WeightedLayer) -> torch.nn.Module:
        """Build a new layer in the given one's place; the given one stays as it is."""

    @abc.abstractmethod
    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        """Return the weights that a quantized layer computes with, in floating point and in the original's shape."""

    def weight_rows(self, layer: WeightedLayer) -> Iterator[torch.Tensor]:
        """Make the same weights some outputs at a time, (r, ...), where that needs less memory than all at once."""
        yield self.weight(layer)

    def export(self, network: torch.nn.Module, folder: Path) -> None:  # noqa: B027 - most have no format of their own
        """Write a quantized network into a folder as other programs read it, where the method has such a format."""

    @staticmethod
    def refuses_model(traits: Traits) -> str | None:
        """Say why the method is not for a model's kind of network, before one is loaded; None if it is."""
        return None

    def refuses(self, layer: WeightedLayer) -> str | None:
        """Say why a layer of the right class cannot be changed; None if it can."""
        return None

    def count_nominal_bits(self, layer: WeightedLayer) -> float:
        """Count the bits that a simulated layer would take if it were stored as it is simulated, its bias included."""
        return 0.0

    def finish(self, network: torch.nn.Module) -> None:  # noqa: B027 - most methods have nothing to add
        """Add to a network of quantized layers what does not belong to one of them."""


class StorableQuantizer(Quantizer):
    """Makes layers of plain tensors, so that they can be written to a safetensors file and read again."""

    @abc.abstractmethod
    def tensors(self, layer: WeightedLayer) -> dict[str, torch.Tensor]:
        """Return everything that a quantized layer holds, by name."""

    @abc.abstractmethod
    def restore(self, layer: WeightedLayer, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """Build the quantized layer again.

        Args:
            layer: the full-precision layer, perhaps without its weights (on "meta"): only its shape counts.
            tensors: as `tensors` gave them.
        """

"""What a quantizer is: it turns one layer of a network at a time into a smaller one."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from pipelines.core.types import Traits

__all__ = ["CONVOLUTIONS", "LINEAR", "Quantizer", "StorableQuantizer", "WeightedLayer"]

LINEAR = (torch.nn.Linear,)
CONVOLUTIONS = (torch.nn.Conv2d,)


class WeightedLayer(torch.nn.Module):
    """Describes a layer with weights as types see it; only annotations use it.

    Attributes:
        weight: (outputs, ...), or what a library keeps in its place.
        bias: (outputs,), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None


class Quantizer(abc.ABC):
    """Turns one layer at a time into a smaller one.

    Attributes:
        layers: the classes that it can change, exactly these.
        is_simulated: whether its layers round and then compute in floating point, and so save neither time nor memory.
    """

    layers: tuple[type[torch.nn.Module], ...] = LINEAR
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

"""diffusers' layerwise casting: weights stored in eight-bit floating point, cast up for each call."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from pipelines.quantizers.base import CONVOLUTIONS, LINEAR, StorableQuantizer
from pipelines.quantizers.widening import widen
from pipelines.weights.libraries import import_libraries

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["Layerwise"]


class Layerwise(StorableQuantizer):
    """Casts weights and biases to e4m3 as they are, without scales; a hook of diffusers' casts them back in each call.

    Source: diffusers, `diffusers.hooks.layerwise_casting`.
    Differs: diffusers chooses layers by patterns that also leave out AdaLN's linears (27 % of FLUX); here the layers
    are those of every other method.
    """

    layers = LINEAR + CONVOLUTIONS

    def __init__(self, settings: object = None):
        pass

    def quantize(self, layer: WeightedLayer) -> torch.nn.Module:
        return self.add_hook(copy.deepcopy(layer), layer.weight.dtype)

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        return widen(layer.weight.detach(), torch.float32)

    def tensors(self, layer: WeightedLayer) -> dict[str, torch.Tensor]:
        return layer.state_dict()

    def restore(self, layer: WeightedLayer, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        dtype = layer.weight.dtype
        layer.load_state_dict(dict(tensors), assign=True)
        return self.add_hook(layer, dtype)

    @staticmethod
    def add_hook(layer: WeightedLayer, compute: torch.dtype) -> torch.nn.Module:
        """Store a layer's weights in e4m3 and cast them to a dtype for each call."""
        import_libraries()
        from diffusers.hooks.layerwise_casting import apply_layerwise_casting_hook

        apply_layerwise_casting_hook(layer, torch.float8_e4m3fn, compute, non_blocking=False)
        return layer

"""Our own weight-only layers: weights kept as codes and scales, and made whole again, in parts, for each call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from pipelines.quantizers.codec import BIAS, Codec
from pipelines.quantizers.contract import CONVOLUTIONS, LINEAR, StorableQuantizer
from pipelines.quantizers.row_parts import count_packed_at_once

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["WeightOnly"]


class WeightOnly(StorableQuantizer):
    """Packs the weights of linear layers and convolutions by a codec; inputs stay as they are."""

    layers = LINEAR + CONVOLUTIONS

    def __init__(self, codec: Codec):
        self.codec = codec

    def quantize(self, layer: WeightedLayer) -> torch.nn.Module:
        rows = layer.weight.detach().flatten(1)
        count, columns = rows.shape
        step = count_packed_at_once(rows.device, count, columns)
        packed = [self.codec.pack(some.float()) for some in rows.split(step)]
        parts = {name: torch.cat([one[name] for one in packed]) for name in packed[0]} if len(packed) > 1 else packed[0]
        bias = None if layer.bias is None else layer.bias.detach().clone()
        return self.build_layer(layer, parts, bias)

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        return layer.weight

    def weight_rows(self, layer: WeightedLayer) -> Iterator[torch.Tensor]:
        from pipelines.quantizers.packed_layers import PackedLayer  # late: a subclass of PyTorch's needs it imported

        if not isinstance(layer, PackedLayer):
            raise TypeError(f"{type(layer).__name__} holds no packed weights.")
        yield from layer.weight_rows()

    def tensors(self, layer: WeightedLayer) -> dict[str, torch.Tensor]:
        return layer.state_dict()

    def restore(self, layer: WeightedLayer, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        parts = {name: tensor for name, tensor in tensors.items() if name != BIAS}
        return self.build_layer(layer, parts, tensors.get(BIAS))

    def refuses(self, layer: WeightedLayer) -> str | None:
        columns = layer.weight[0].numel()
        after, before = self.codec.count_row_bytes(columns), columns * layer.weight.element_size()
        if after < before:
            return None
        return f"its rows of {columns} weights would not become smaller"

    def build_layer(
        self, layer: WeightedLayer, parts: Mapping[str, torch.Tensor], bias: torch.Tensor | None
    ) -> torch.nn.Module:
        """Build the layer of packed weights in a linear layer's or a convolution's place."""
        from pipelines.quantizers.packed_layers import PackedConv2d, PackedLinear  # late: as above

        if isinstance(layer, torch.nn.Conv2d):
            return PackedConv2d(self.codec, parts, layer, bias)
        return PackedLinear(self.codec, parts, layer.weight.shape, bias)

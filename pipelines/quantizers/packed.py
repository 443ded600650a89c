"""Our own weight-only layers: weights kept as codes and scales, and made whole again for each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch.nn import functional

from pipelines.quantizers.base import CONVOLUTIONS, LINEAR, StorableQuantizer

__all__ = ["Codec", "PackedConv2d", "PackedLinear", "WeightOnly", "pack_nibbles", "scale_above", "unpack_nibbles"]

BIAS = "bias"


class Codec(Protocol):
    """How a matrix of weights is written in fewer bits."""

    def pack(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Codes and scales of weights (R, C), float32; R is the layer's outputs."""

    def unpack(self, parts: Mapping[str, torch.Tensor], columns: int) -> torch.Tensor:
        """The weights (R, C) again, float32, each as near as its codes allow."""


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """(..., 2n) codes of 0 to 15 as (..., n) bytes, the first of each pair in the low half."""
    pairs = codes.to(torch.uint8).unflatten(-1, (-1, 2))
    return pairs[..., 0] | (pairs[..., 1] << 4)


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """The (..., 2n) codes of (..., n) bytes, uint8."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def scale_above(values: torch.Tensor) -> torch.Tensor:
    """Values as float16, rounded away from zero, so that a range kept in float16 never becomes narrower."""
    half = values.to(torch.float16)
    short = half.float().abs() < values.abs()
    # The next float16 away from zero is the next bit pattern, whatever the sign; a zero needs its sign set first.
    signed = torch.where((half == 0) & (values < 0), torch.tensor(-0.0, dtype=torch.float16, device=half.device), half)
    return torch.where(short, (signed.view(torch.int16) + 1).view(torch.float16), half)


class _Packed(torch.nn.Module):
    """What both layers share: the codec, its tensors as buffers, and the bias as it was."""

    def __init__(self, codec: Codec, parts: Mapping[str, torch.Tensor], shape: torch.Size, bias: torch.Tensor | None):
        super().__init__()
        self.codec, self.shape, self.names = codec, shape, tuple(parts)
        for name, tensor in parts.items():
            self.register_buffer(name, tensor)
        self.register_parameter(BIAS, None if bias is None else torch.nn.Parameter(bias, requires_grad=False))

    @property
    def weight(self) -> torch.Tensor:
        """The weights in float32 and in their own shape, made anew each time."""
        parts = {name: self._buffers[name] for name in self.names}
        return self.codec.unpack(parts, self.shape[1:].numel()).reshape(self.shape)

    def _whole(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.weight.to(like.dtype), None if self.bias is None else self.bias.to(like.dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, {type(self.codec).__name__}"


class PackedLinear(_Packed):
    """A linear layer with packed weights."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(inputs, *self._whole(inputs))


class PackedConv2d(_Packed):
    """A convolution with packed weights and the geometry of another."""

    def __init__(
        self, codec: Codec, parts: Mapping[str, torch.Tensor], like: torch.nn.Conv2d, bias: torch.Tensor | None
    ):
        super().__init__(codec, parts, like.weight.shape, bias)
        self.stride, self.padding, self.dilation, self.groups = like.stride, like.padding, like.dilation, like.groups
        self.padding_mode, self.around = like.padding_mode, like._reversed_padding_repeated_twice

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            inputs, padding = functional.pad(inputs, self.around, mode=self.padding_mode), 0
        return functional.conv2d(inputs, *self._whole(inputs), self.stride, padding, self.dilation, self.groups)


class WeightOnly(StorableQuantizer):
    """Linear layers and convolutions whose weights are packed by a codec; inputs stay as they are."""

    layers = LINEAR + CONVOLUTIONS

    def __init__(self, codec: Codec):
        self.codec = codec

    def quantize(self, layer: torch.nn.Module) -> torch.nn.Module:
        parts = self.codec.pack(layer.weight.detach().float().flatten(1))
        bias = None if layer.bias is None else layer.bias.detach().clone()
        return self._made(layer, parts, bias)

    def weight(self, layer: torch.nn.Module) -> torch.Tensor:
        return layer.weight

    def tensors(self, layer: torch.nn.Module) -> dict[str, torch.Tensor]:
        return layer.state_dict()

    def restored(self, layer: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        parts = {name: tensor for name, tensor in tensors.items() if name != BIAS}
        return self._made(layer, parts, tensors.get(BIAS))

    def _made(
        self, layer: torch.nn.Module, parts: Mapping[str, torch.Tensor], bias: torch.Tensor | None
    ) -> torch.nn.Module:
        if isinstance(layer, torch.nn.Conv2d):
            return PackedConv2d(self.codec, parts, layer, bias)
        return PackedLinear(self.codec, parts, layer.weight.shape, bias)

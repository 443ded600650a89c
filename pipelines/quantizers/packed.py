"""Our own weight-only layers: weights kept as codes and scales, and made whole again, in parts, for each call."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeAlias, cast

import torch
from torch.nn import functional

from pipelines.quantizers import integer_products
from pipelines.quantizers.contract import CONVOLUTIONS, LINEAR, StorableQuantizer, WeightedLayer
from pipelines.quantizers.row_parts import choose_step, count_packed_at_once
from pipelines.quantizers.widening import widen

__all__ = [
    "BIAS",
    "Codec",
    "PackedConv2d",
    "PackedLinear",
    "WeightOnly",
    "pack_nibbles",
    "scale_above",
    "unpack_nibbles",
]

BIAS = "bias"

_LEAST_SCALE = 2.0**-100
"""Scales below are taken for this one, so that a bias divided by its row's scale stays finite: zeros stay zeros."""

_FEW_POSITIONS = 256
"""Bytes of one output channel up to which a CPU convolves faster by a product with all patches: oneDNN arranges a
convolution's weights anew in each call, which at few pixels costs more than the sums."""


class Codec(Protocol):
    """Says how a matrix of weights is written in fewer bits."""

    @property
    def has_row_scales(self) -> bool:
        """Whether a weight is a code, exact in bfloat16, times the scale of its row."""

    def count_row_bytes(self, columns: int) -> int:
        """Count the bytes that a row of so many weights takes."""

    def pack(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute codes and scales of weights (R, C), float32; R is the layer's outputs."""

    def unpack(
        self, parts: Mapping[str, torch.Tensor], columns: int, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Compute the weights (R, C) again, each as near as codes and dtype allow; R may be a part of the rows."""


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Pack (..., c) codes of 0 to 15 as (..., ceil(c / 2)) bytes, the first of each pair in the low half."""
    codes = functional.pad(codes, (0, codes.shape[-1] % 2))
    pairs = codes.to(torch.uint8).unflatten(-1, (-1, 2))
    return pairs[..., 0] | (pairs[..., 1] << 4)


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Unpack the (..., 2n) codes of (..., n) bytes, uint8."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def scale_above(values: torch.Tensor) -> torch.Tensor:
    """Return values as float16, rounded away from zero, so that a range kept in float16 never becomes narrower."""
    half = values.to(torch.float16)
    short = half.float().abs() < values.abs()
    # The next float16 away from zero is the next bit pattern, whatever the sign; a zero needs its sign set first.
    signed = torch.where((half == 0) & (values < 0), torch.tensor(-0.0, dtype=torch.float16, device=half.device), half)
    return torch.where(short, (signed.view(torch.int16) + 1).view(torch.float16), half)


_Parts: TypeAlias = Mapping[str, torch.Tensor]
_Operation: TypeAlias = Callable[[torch.Tensor, "torch.Tensor | None"], torch.Tensor]


class _Packed(torch.nn.Module):
    """What both layers share: the codec, its tensors as buffers, and the bias as it was."""

    codes: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, codec: Codec, parts: Mapping[str, torch.Tensor], shape: torch.Size, bias: torch.Tensor | None):
        super().__init__()
        self.codec, self.shape, self.names, self.columns = codec, shape, tuple(parts), shape[1:].numel()
        for name, tensor in parts.items():
            self.register_buffer(name, tensor)
        self.register_parameter(BIAS, None if bias is None else torch.nn.Parameter(bias, requires_grad=False))

    def _get_parts(self) -> dict[str, torch.Tensor]:
        return cast("dict[str, torch.Tensor]", {name: self._buffers[name] for name in self.names})

    @property
    def weight(self) -> torch.Tensor:
        """The weights in float32 and in their own shape, made anew each time."""
        parts = self._get_parts()
        return self.codec.unpack(parts, self.columns).reshape(self.shape)

    def weight_rows(self) -> Iterator[torch.Tensor]:
        """Make the weights in float32 a part of the rows at a time, (r, columns) each."""
        parts = self._get_parts()
        count, columns = self.shape[0], self.columns
        step = count_packed_at_once(parts["codes"].device, count, columns)
        for start in range(0, count, step):
            yield self.codec.unpack({name: one[start : start + step] for name, one in parts.items()}, columns)

    def _compute(self, inputs: torch.Tensor, operation: _Operation, channels: int, positions: int) -> torch.Tensor:
        """Compute the layer's outputs, on a CPU a part of its rows at a time.

        Args:
            inputs: of the layer.
            operation: of weights and a bias.
            channels: the dimension of the outputs that the rows make, counted from the last, -1.
            positions: how many outputs each row makes.
        """
        dtype, parts, count = inputs.dtype, self._get_parts(), self.shape[0]
        bias = None if self.bias is None else self.bias.to(dtype)
        step = choose_step(inputs.device, count, self.columns, dtype.itemsize) if self._can_be_split else count
        # Scaling outputs takes longer than scaling weights where there are more of them, and in float16 a sum of codes,
        # which are larger than the weights, may overflow.
        is_scaled_after = self.codec.has_row_scales and dtype != torch.float16 and positions <= self.columns
        compute = self._scale_outputs if is_scaled_after else self._scale_weights
        if step >= count:
            return compute(parts, bias, operation, channels, dtype)
        outputs = []
        for start in range(0, count, step):
            rows = {name: tensor[start : start + step] for name, tensor in parts.items()}
            offset = None if bias is None else bias[start : start + step]
            outputs.append(compute(rows, offset, operation, channels, dtype))
        return torch.cat(outputs, channels)

    def _scale_weights(
        self, rows: _Parts, bias: torch.Tensor | None, operation: _Operation, channels: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """Make the weights whole first."""
        return operation(self.codec.unpack(rows, self.columns, dtype).view(-1, *self.shape[1:]), bias)

    def _scale_outputs(
        self, rows: _Parts, bias: torch.Tensor | None, operation: _Operation, channels: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """Sum codes and a bias that is divided by the scales, and scale the sums."""
        codes, scales = widen(rows["codes"], dtype), rows["scales"].to(dtype)
        if bias is not None:
            scales = scales.clamp_min(_LEAST_SCALE)
            bias = bias / scales.view(-1)
        # Not addcmul, which is not vectorized where scales are alike along the last dimension.
        return operation(codes.view(-1, *self.shape[1:]), bias).mul_(scales.view([-1] + [1] * (-1 - channels)))

    def _multiplies_integers(self, inputs: torch.Tensor, positions: int) -> bool:
        return self.codec.has_row_scales and integer_products.is_worth_splitting(self.codes, inputs, positions)

    @property
    def _can_be_split(self) -> bool:
        """Say whether each of the outputs needs all inputs and only its own row."""
        return True

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, {type(self.codec).__name__}"


class PackedLinear(_Packed):
    """Represents a linear layer with packed weights."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        positions = inputs.numel() // self.columns
        if inputs.dim() > 1 and self._multiplies_integers(inputs, positions):
            rows = integer_products.split_rows(inputs.flatten(0, -2))
            output = integer_products.multiply_rows(rows, self.codes, self.scales, self.bias)
            return output.view(*inputs.shape[:-1], -1)
        return self._compute(inputs, functools.partial(functional.linear, inputs), -1, positions)


class PackedConv2d(_Packed):
    """Represents a convolution with packed weights and the geometry of another."""

    def __init__(
        self, codec: Codec, parts: Mapping[str, torch.Tensor], like: torch.nn.Conv2d, bias: torch.Tensor | None
    ):
        super().__init__(codec, parts, like.weight.shape, bias)
        self.stride, self.padding, self.dilation, self.groups = like.stride, like.padding, like.dilation, like.groups
        self.padding_mode, self.around = like.padding_mode, like._reversed_padding_repeated_twice

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.dim() == 3:  # a picture without a batch
            return self.forward(inputs[None])[0]
        padding: str | tuple[int, ...] | int = self.padding
        if self.padding_mode != "zeros":
            inputs, padding = functional.pad(inputs, self.around, mode=self.padding_mode), 0
        # Padding by name keeps the sides.
        sides = tuple(inputs.shape[-2:]) if isinstance(padding, str) else self._count_sides(inputs, padding)
        positions = len(inputs) * math.prod(sides)
        are_few = inputs.device.type == "cpu" and positions * inputs.element_size() <= _FEW_POSITIONS
        if are_few and self.groups == 1 and not isinstance(padding, str):
            return self._multiply_columns(inputs, padding, sides)

        def convolve(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return functional.conv2d(inputs, weight, bias, self.stride, padding, self.dilation, self.groups)

        return self._compute(inputs, convolve, -3, positions)

    def _count_sides(self, inputs: torch.Tensor, padding: tuple[int, ...] | int) -> tuple[int, ...]:
        around = (padding, padding) if isinstance(padding, int) else padding
        return tuple(
            (side + 2 * more - step * (kernel - 1) - 1) // stride + 1
            for side, more, step, kernel, stride in zip(
                *(inputs.shape[2:], around, self.dilation, self.shape[2:], self.stride), strict=True
            )
        )

    def _multiply_columns(
        self, inputs: torch.Tensor, padding: tuple[int, ...] | int, sides: tuple[int, ...]
    ) -> torch.Tensor:
        """Convolve as one product with the patches of all outputs, (columns, B H W)."""
        positions = math.prod(sides)

        def take_patches(images: torch.Tensor) -> torch.Tensor:
            patches = functional.unfold(images, self.shape[2:], self.dilation, padding, self.stride)
            return patches.transpose(0, 1).flatten(1)

        def multiply(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            rows = weight.flatten(1)
            return rows @ columns if bias is None else torch.addmm(bias[:, None], rows, columns)

        if self._multiplies_integers(inputs, len(inputs) * positions):
            halves, scales = integer_products.split_images(inputs)
            columns, of_columns = take_patches(halves), scales.repeat_interleave(positions)
            codes = self.codes.flatten(1)
            output = integer_products.multiply_columns((columns, of_columns), codes, self.scales, self.bias)
        else:
            columns = take_patches(inputs)
            output = self._compute(columns, multiply, -2, len(inputs) * positions)
        return output.unflatten(1, (len(inputs), *sides)).transpose(0, 1)

    @property
    def _can_be_split(self) -> bool:
        return self.groups == 1


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
        if not isinstance(layer, _Packed):
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
        if isinstance(layer, torch.nn.Conv2d):
            return PackedConv2d(self.codec, parts, layer, bias)
        return PackedLinear(self.codec, parts, layer.weight.shape, bias)

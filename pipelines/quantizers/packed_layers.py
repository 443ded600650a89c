"""Layers whose weights are kept as codes and scales, and made whole again, in parts, for each call."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias, cast

import torch
from torch.nn import functional

from pipelines.quantizers import integer_products
from pipelines.quantizers.codec import BIAS, Codec
from pipelines.quantizers.row_parts import choose_step, count_packed_at_once
from pipelines.quantizers.widening import widen

__all__ = ["PackedConv2d", "PackedLayer", "PackedLinear"]

_LEAST_SCALE = 2.0**-100
"""Scales below are taken for this one, so that a bias divided by its row's scale stays finite: zeros stay zeros."""

_FEW_POSITIONS = 256
"""Bytes of one output channel up to which a CPU convolves faster by a product with all patches: oneDNN arranges a
convolution's weights anew in each call, which at few pixels costs more than the sums."""

_Parts: TypeAlias = Mapping[str, torch.Tensor]
_Operation: TypeAlias = Callable[[torch.Tensor, "torch.Tensor | None"], torch.Tensor]


class PackedLayer(torch.nn.Module):
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


class PackedLinear(PackedLayer):
    """Represents a linear layer with packed weights."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        positions = inputs.numel() // self.columns
        if inputs.dim() > 1 and self._multiplies_integers(inputs, positions):
            rows = integer_products.split_rows(inputs.flatten(0, -2))
            output = integer_products.multiply_rows(rows, self.codes, self.scales, self.bias)
            return output.view(*inputs.shape[:-1], -1)
        return self._compute(inputs, functools.partial(functional.linear, inputs), -1, positions)


class PackedConv2d(PackedLayer):
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

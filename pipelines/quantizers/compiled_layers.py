"""Layers of eight-bit integers, spelled as PyTorch's compiler looks for them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from pipelines.quantizers.codec import BIAS

__all__ = ["LEVELS", "SCALE", "ZERO", "StaticConv2d", "StaticLinear"]

LEVELS = 255
SCALE, ZERO = "input_scale", "input_zero_point"
"""Names of the tensors that say how inputs are rounded."""


class _StaticLayer(torch.nn.Module):
    """Holds int8 codes, a scale a row, and the scale and zero point of its inputs.

    What it computes is spelled as PyTorch's exported quantization spells it, which is what its compiler looks for.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        super().__init__()
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the operations; it takes long

        for name in ("codes", "scales", SCALE, ZERO):
            self.register_buffer(name, tensors[name])
        bias = tensors.get(BIAS)
        self.register_parameter(BIAS, None if bias is None else torch.nn.Parameter(bias, requires_grad=False))
        # Plain numbers, since the compiler looks for constants.
        self._scale, self._zero = float(tensors[SCALE]), int(tensors[ZERO])
        self.register_buffer("_row_zeros", torch.zeros(len(self.codes), dtype=torch.int64), persistent=False)

    def _round_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        operations, where = torch.ops.quantized_decomposed, (self._scale, self._zero, 0, LEVELS, torch.uint8)
        return operations.dequantize_per_tensor(operations.quantize_per_tensor(inputs, *where), *where)

    @property
    def weight(self) -> torch.Tensor:
        """The weights in float32 and in their own shape, made anew each time."""
        operations = torch.ops.quantized_decomposed
        return operations.dequantize_per_channel(self.codes, self.scales, self._row_zeros, 0, -128, 127, torch.int8)

    def extra_repr(self) -> str:
        return f"{tuple(self.codes.shape)}"


class StaticLinear(_StaticLayer):
    """Represents a linear layer on inputs of eight bits."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(self._round_inputs(inputs), self.weight, self.bias)


class StaticConv2d(_StaticLayer):
    """Represents a convolution on inputs of eight bits."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], like: torch.nn.Conv2d):
        super().__init__(tensors)
        self.geometry: Any = (like.stride, like.padding, like.dilation, like.groups)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(self._round_inputs(inputs), self.weight, self.bias, *self.geometry)

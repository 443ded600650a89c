"""Layers that multiply eight-bit integers with oneDNN's kernels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from pipelines.quantizers.codec import BIAS
from pipelines.quantizers.contract import TINY

__all__ = ["OneDnnConv2d", "OneDnnLinear", "quantize_inputs"]

_LEVELS = 255


def quantize_inputs(inputs: torch.Tensor) -> tuple[torch.Tensor, float, int]:
    """Quantize a tensor to uint8 with one scale, from its own extremes and zero: x = scale * (q - zero point)."""
    low, high = torch.aminmax(inputs)
    least, most = min(0.0, float(low)), max(0.0, float(high))
    scale = max((most - least) / _LEVELS, TINY)
    zero_point = round(-least / scale)
    codes = torch.add(zero_point, inputs, alpha=1 / scale).round_().clamp_(0, _LEVELS)
    return codes.to(torch.uint8), scale, zero_point


class _OneDnnLayer(torch.nn.Module):
    """Holds int8 codes and a scale a row; oneDNN's own arrangement of them is made at the first call.

    Attributes:
        codes: (R, ...), int8.
        scales: (R,), float32.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_parameter(BIAS, None if bias is None else torch.nn.Parameter(bias, requires_grad=False))
        self.zero_points = torch.zeros(len(codes), dtype=torch.int64)
        self._packed: torch.Tensor | None = None

    def _prepare(self, pack: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return oneDNN's arrangement of the weights, which serves inputs of every shape; it is made once."""
        if self._packed is None:
            self._packed = pack()
        return self._packed

    def __deepcopy__(self, memo: dict[int, Any]) -> _OneDnnLayer:
        """Copy all but oneDNN's arrangement, which cannot be copied and is made anew."""
        other = self.__class__.__new__(self.__class__)
        memo[id(self)] = other
        other.__dict__ = {name: copy.deepcopy(one, memo) for name, one in vars(self).items() if name != "_packed"}
        other._packed = None
        return other

    @property
    def weight(self) -> torch.Tensor:
        """The weights in float32 and in their own shape, made anew each time."""
        return self.codes.float() * self.scales.view(-1, *[1] * (self.codes.dim() - 1))

    def extra_repr(self) -> str:
        return f"{tuple(self.codes.shape)}"


class OneDnnLinear(_OneDnnLayer):
    """Represents a linear layer that multiplies eight-bit integers."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            rows = inputs.flatten(0, -2).float()
            codes, scale, zero_point = quantize_inputs(rows)
            packed = self._prepare(lambda: torch.ops.onednn.qlinear_prepack(self.codes, list(rows.shape)))
            bias = None if self.bias is None else self.bias.float()
            output = torch.ops.onednn.qlinear_pointwise(
                *(codes, scale, zero_point, packed, self.scales, self.zero_points, bias),
                *(1.0, 0, torch.float32, "none", [], ""),
            )
        return output.view(*inputs.shape[:-1], -1).to(inputs.dtype)


class OneDnnConv2d(_OneDnnLayer):
    """Represents a convolution that multiplies eight-bit integers."""

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None, like: torch.nn.Conv2d):
        super().__init__(codes, scales, bias)
        self.geometry = (list(like.stride), [0, 0], list(like.dilation), like.groups)
        self.mode, self.around = like.padding_mode, list(like._reversed_padding_repeated_twice)
        if like.padding_mode == "zeros" and not isinstance(like.padding, str):
            self.geometry = (list(like.stride), list(like.padding), list(like.dilation), like.groups)
            self.around = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.around:
            inputs = functional.pad(inputs, self.around, mode="constant" if self.mode == "zeros" else self.mode)
        stride, padding, dilation, groups = self.geometry
        with torch.no_grad():
            codes, scale, zero_point = quantize_inputs(inputs.float())
            arguments = (self.codes, self.scales, scale, zero_point, *self.geometry, list(inputs.shape))
            packed = self._prepare(lambda: torch.ops.onednn.qconv_prepack(*arguments))
            bias = None if self.bias is None else self.bias.float()
            output = torch.ops.onednn.qconv2d_pointwise(
                *(codes, scale, zero_point, packed, self.scales, self.zero_points, bias),
                *(stride, padding, dilation, groups, 1.0, 0, torch.float32, "none", [], ""),
            )
        return output.to(inputs.dtype)

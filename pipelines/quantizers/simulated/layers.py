"""Simulated layers: inputs smoothed, rotated and rounded, weights rounded, the product in floating point."""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional

from pipelines.quantizers.simulated.activation_quantizer import ActivationQuantizer
from pipelines.quantizers.simulated.layer_spec import SIMULATED, LayerParts, LayerSpec

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["SimulatedConv2d", "SimulatedLayer", "SimulatedLinear", "build_layer"]


class SimulatedLayer(torch.nn.Module, abc.ABC):
    """Computes as quantized hardware would, in floating point; it saves neither time nor memory.

    Args:
        spec: how it is simulated.
        parts: its tensors.

    Attributes:
        channels: where the inputs' channels are.
        halves: quantizers of the inputs; two where a concatenated input is split.
    """

    channels: int
    weight: torch.Tensor
    bias: torch.Tensor | None
    factors: torch.Tensor | None
    rotation: torch.Tensor | None
    down: torch.Tensor | None
    up: torch.Tensor | None
    first: torch.Tensor | None

    def __init__(self, spec: LayerSpec, parts: LayerParts):
        super().__init__()
        self.spec, self.nominal_bits = spec, parts.nominal_bits
        # Read from a file a tensor lies in one piece; products of one that does not may round differently.
        for name in ("weight", "bias"):
            tensor = _lay_out(getattr(parts, name))
            parameter = None if tensor is None else torch.nn.Parameter(tensor, requires_grad=False)
            self.register_parameter(name, parameter)
        for name in ("factors", "rotation", "down", "up", "first"):
            self.register_buffer(name, _lay_out(getattr(parts, name)))
        count = 2 if spec.split else 1
        self.halves = torch.nn.ModuleList(ActivationQuantizer(spec.activations, self.channels) for _ in range(count))
        record = {"simulated": SIMULATED, "spec": spec.to_json(), "nominal_bits": parts.nominal_bits}
        self.register_buffer("record", torch.tensor(list(json.dumps(record).encode()), dtype=torch.uint8))

    @abc.abstractmethod
    def _multiply(self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Apply weights of this layer's shape."""

    @abc.abstractmethod
    def _expand(self, inputs: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Apply the branch's second weights (outputs, rank) to its channels."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        values = self._transform(inputs)
        rounded = self._round(values)
        dtype = inputs.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        outputs = self._multiply(rounded, self.weight.to(dtype), bias)
        if self.down is not None and self.up is not None:
            outputs = outputs + self._expand(self._multiply(values, self.down.to(dtype), None), self.up.to(dtype))
        if self.first is not None:
            kept = self._multiply(inputs[:, :1], self.first.to(dtype), bias)
            outputs = torch.cat([kept, outputs[:, 1:]], 1)
        return outputs

    def _transform(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.factors is not None:
            shape = [1] * inputs.dim()
            shape[self.channels] = -1
            inputs = inputs / self.factors.to(inputs.dtype).reshape(shape)
        if self.rotation is not None:
            inputs = (inputs.movedim(self.channels, -1) @ self.rotation.to(inputs.dtype)).movedim(-1, self.channels)
        return inputs

    def _round(self, values: torch.Tensor) -> torch.Tensor:
        if len(self.halves) == 1:
            return cast(torch.Tensor, self.halves[0](values))
        sizes = [self.spec.split, values.shape[self.channels] - self.spec.split]
        parts = values.split(sizes, self.channels)
        return torch.cat([half(part) for half, part in zip(self.halves, parts, strict=True)], self.channels)

    @property
    def effective_weight(self) -> torch.Tensor:
        """Return the weights (outputs, ...) that the layer's unrounded inputs are multiplied with, float32."""
        weight = self.weight.float()
        if self.down is not None and self.up is not None:
            weight = weight + (self.up.float() @ self.down.float().flatten(1)).reshape(weight.shape)
        if self.rotation is not None:
            weight = (weight.movedim(1, -1) @ self.rotation.float().T).movedim(-1, 1)
        if self.factors is not None:
            weight = weight / _over_inputs(self.factors.float(), weight)
        return weight

    @classmethod
    def restore(cls, layer: WeightedLayer, tensors: Mapping[str, torch.Tensor]) -> SimulatedLayer:
        """Build the layer of its own `state_dict` in place of a full-precision one, whose geometry counts."""
        record = json.loads(bytes(tensors["record"].tolist()))
        names = ("weight", "bias", "factors", "rotation", "down", "up", "first")
        parts = LayerParts(
            **{name: tensors[name] for name in names if name in tensors}, nominal_bits=float(record["nominal_bits"])
        )
        made = build_layer(layer, LayerSpec.from_json(record["spec"]), parts)
        for place, half in enumerate(made.halves):
            for name in ("low", "high", "edges", "members"):
                setattr(half, name, tensors[f"halves.{place}.{name}"])
        return made

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, {self.spec.weights}, inputs {self.spec.activations.form}, {SIMULATED}"


class SimulatedLinear(SimulatedLayer):
    """Represents a linear layer."""

    channels = -1

    def _multiply(self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return functional.linear(inputs, weight, bias)

    def _expand(self, inputs: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return functional.linear(inputs, up)


class SimulatedConv2d(SimulatedLayer):
    """Represents a convolution with the geometry of another."""

    channels = 1

    def __init__(self, spec: LayerSpec, parts: LayerParts, like: torch.nn.Conv2d):
        super().__init__(spec, parts)
        self.stride, self.padding, self.dilation, self.groups = like.stride, like.padding, like.dilation, like.groups
        self.padding_mode, self.around = like.padding_mode, like._reversed_padding_repeated_twice

    def _multiply(self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self.padding_mode != "zeros":
            inputs = functional.pad(inputs, self.around, mode=self.padding_mode)
        padding = self.padding if self.padding_mode == "zeros" else 0
        return functional.conv2d(inputs, weight, bias, self.stride, padding, self.dilation, self.groups)

    def _expand(self, inputs: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(inputs, up[:, :, None, None])


def build_layer(layer: WeightedLayer, spec: LayerSpec, parts: LayerParts) -> SimulatedLayer:
    """Build the simulated layer in a linear layer's or a convolution's place."""
    if isinstance(layer, torch.nn.Conv2d):
        return SimulatedConv2d(spec, parts, layer)
    return SimulatedLinear(spec, parts)


def _lay_out(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _over_inputs(factors: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Factors of all inputs (C,) so that they broadcast to weights (R, C, ...)."""
    return factors.reshape(1, -1, *[1] * (weight.dim() - 2))

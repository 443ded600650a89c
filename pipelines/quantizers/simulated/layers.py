"""Simulated layers: inputs smoothed, rotated and rounded, weights rounded, the product in floating point."""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.nn import functional

from pipelines.quantizers.contract import WeightedLayer
from pipelines.quantizers.simulated.activations import ActivationQuantizer, ActivationSpec

__all__ = [
    "SIMULATED",
    "LayerParts",
    "LayerSpec",
    "SimulatedConv2d",
    "SimulatedLayer",
    "SimulatedLinear",
    "build_layer",
]

UNROUNDED = ActivationSpec()
SIMULATED = "simulated: no claim of speed or memory"


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """Describes how one layer is simulated; as it is by default, it computes what the full-precision layer does.

    Attributes:
        weights: number format of the weights, "full" for none.
        scope: of a range of the weights: "tensor", "channel" (of outputs) or "group".
        group_size: weights of a group, with "group".
        search: ranges of the weights by the least error, and not by the extremes.
        activations: of the inputs.
        smoothing: exponent of the inputs' extremes in the channels' factors; negative for none, above 1 to search it.
        rank: of a branch in full precision beside the rounded weights.
        rotation: of the channels: "none", "hadamard", "outlier" or "auto", by what is best on the calibration.
        split: channels of the first half of a concatenated input, whose halves have ranges of their own; 0 for none.
        keep_first: the first token goes through the full-precision weights, unrounded.
        rounding: "nearest", "feedback" (GPTQ) or "adaround".
        tabled: the layer's outputs are taken as computed beforehand for so many steps, and so are exact; 0 for not.
    """

    weights: str = "full"
    scope: str = "channel"
    group_size: int = 64
    search: bool = False
    activations: ActivationSpec = UNROUNDED
    smoothing: float = -1.0
    rank: int = 0
    rotation: str = "none"
    split: int = 0
    keep_first: bool = False
    rounding: str = "nearest"
    tabled: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LayerSpec:
        """Read what `to_json` returned."""
        plain = values["activations"]
        lists = {name: tuple(plain.get(name, ())) for name in ("edges", "forms")}
        return cls(**{**values, "activations": ActivationSpec(**{**plain, **lists})})


@dataclasses.dataclass(frozen=True, eq=False)
class LayerParts:
    """Holds the tensors of a simulated layer.

    Attributes:
        weight: rounded, for inputs that are smoothed and rotated; of the layer's shape.
        bias: (outputs,), or None.
        factors: (C,), by which the inputs' channels are divided, or None.
        rotation: (C, C), orthogonal, applied to the inputs' channels after that, or None.
        down, up: the branch in full precision: weights (rank, ...) and (outputs, rank), or None.
        first: full-precision weights for the first token, or None.
        nominal_bits: that the rounded weights would take in memory, ranges and branch included.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    factors: torch.Tensor | None = None
    rotation: torch.Tensor | None = None
    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    first: torch.Tensor | None = None
    nominal_bits: float = 0.0


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

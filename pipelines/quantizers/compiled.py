"""Static W8A8 that PyTorch compiles: eight-bit inputs by ranges that runs of the model gave, and oneDNN's kernels."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch.nn import functional

from pipelines.core.cancelling import Cancelled
from pipelines.core.compiler import explain_missing_compiler
from pipelines.core.gradients import no_grad
from pipelines.core.registry import setting
from pipelines.quantizers.calibrated import CalibratedQuantizer, Progress
from pipelines.quantizers.calibration import Calibration, replay
from pipelines.quantizers.contract import CONVOLUTIONS, LINEAR, WeightedLayer
from pipelines.quantizers.int8 import Int8Codec
from pipelines.quantizers.machine import Machine
from pipelines.quantizers.onednn import fits_onednn
from pipelines.quantizers.packed import BIAS, WeightOnly

__all__ = ["CompiledSettings", "CompiledW8A8", "StaticConv2d", "StaticLinear", "fits_compiled"]

_LEVELS = 255
_TINY = torch.finfo(torch.float32).tiny
_MOST_CALLS = 24
_SCALE, _ZERO = "input_scale", "input_zero_point"


def fits_compiled(machine: Machine) -> str | None:
    """Say why it cannot run."""
    return fits_onednn(machine) or explain_missing_compiler("cpu")


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

        for name in ("codes", "scales", _SCALE, _ZERO):
            self.register_buffer(name, tensors[name])
        bias = tensors.get(BIAS)
        self.register_parameter(BIAS, None if bias is None else torch.nn.Parameter(bias, requires_grad=False))
        # Plain numbers, since the compiler looks for constants.
        self._scale, self._zero = float(tensors[_SCALE]), int(tensors[_ZERO])
        self.register_buffer("_row_zeros", torch.zeros(len(self.codes), dtype=torch.int64), persistent=False)

    def _round_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        operations, where = torch.ops.quantized_decomposed, (self._scale, self._zero, 0, _LEVELS, torch.uint8)
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


@dataclasses.dataclass(frozen=True)
class CompiledSettings:
    compile: bool = setting(True, "Let PyTorch compile it; without, the picture is the same and takes longer.")


class CompiledW8A8(CalibratedQuantizer):
    """Multiplies eight-bit integers in a compiled network: weights with a scale a row, inputs with one that is fixed.

    Without the compiler the layers compute the same, and slowly. It runs at the first evaluation of each shape.

    Source: Jacob et al., arXiv:1712.05877; PyTorch's X86 inductor quantizer (PT2E), whose patterns of operations and
    lowering to oneDNN these are.
    Differs: the network is not exported: layers are replaced, and `torch.compile` finds the patterns in them.
    """

    layers = LINEAR + CONVOLUTIONS

    def __init__(self, settings: CompiledSettings = CompiledSettings()):
        self.settings = settings

    def quantize_layers(
        self,
        network: torch.nn.Module,
        names: Sequence[str],
        calibration: Calibration,
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> Mapping[str, torch.nn.Module]:
        progress("Measuring the ranges of inputs", 0, 1)
        ranges = _measure_ranges(network, names, calibration.thin(_MOST_CALLS), cancelled)
        built = {}
        for name in names:
            if cancelled():
                raise Cancelled
            built[name] = self._build(cast(WeightedLayer, network.get_submodule(name)), *ranges.get(name, (0.0, 0.0)))
        return built

    def _build(self, layer: WeightedLayer, low: float, high: float) -> torch.nn.Module:
        parts = Int8Codec().pack(layer.weight.detach().flatten(1).float())
        scale = max((max(high, 0.0) - min(low, 0.0)) / _LEVELS, _TINY)
        tensors = {
            "codes": parts["codes"].view(layer.weight.shape),
            "scales": parts["scales"].flatten(),
            _SCALE: torch.tensor(scale, dtype=torch.float64),
            _ZERO: torch.tensor(round(-min(low, 0.0) / scale)),
        }
        return self.restore(layer, tensors if layer.bias is None else {**tensors, BIAS: layer.bias.detach().clone()})

    def finish(self, network: torch.nn.Module) -> None:
        """Let PyTorch compile the network at its first evaluation of each shape."""
        if not self.settings.compile:
            return
        plain = network.forward
        compiled = torch.compile(plain, dynamic=False)

        @functools.wraps(plain)
        def evaluate(*args: object, **kwargs: object) -> Any:
            # Freezing makes constants of the weights, which oneDNN arranges once. The modes that ask after every
            # operation whether to go on would end up in the graph.
            with (
                torch._inductor.config.patch(freezing=True),
                torch._C.DisableTorchFunction(),
                torch.inference_mode(False),
                torch.no_grad(),
            ):
                return compiled(*args, **kwargs)

        network.forward = evaluate  # type: ignore[method-assign]

    def refuses(self, layer: WeightedLayer) -> str | None:
        if isinstance(layer, torch.nn.Conv2d) and layer.padding_mode != "zeros":
            return f"its padding is {layer.padding_mode}, which the kernels do not have"
        return WeightOnly(Int8Codec()).refuses(layer)

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        return layer.weight

    def tensors(self, layer: WeightedLayer) -> dict[str, torch.Tensor]:
        return layer.state_dict()

    def restore(self, layer: WeightedLayer, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        return StaticConv2d(tensors, layer) if isinstance(layer, torch.nn.Conv2d) else StaticLinear(tensors)


@no_grad
def _measure_ranges(
    network: torch.nn.Module, names: Sequence[str], calibration: Calibration, cancelled: Callable[[], bool]
) -> dict[str, tuple[float, float]]:
    """Least and largest input of each layer over the calls; one that is never called has no entry."""
    ranges: dict[str, tuple[float, float]] = {}

    def widen(name: str, module: torch.nn.Module, given: torch.Tensor) -> None:
        low, high = (float(one) for one in torch.aminmax(given))
        known = ranges.get(name, (low, high))
        ranges[name] = (min(low, known[0]), max(high, known[1]))

    replay(network, names, calibration, widen, cancelled)
    return ranges

"""Static W8A8 that PyTorch compiles: eight-bit inputs by ranges that runs of the model gave, and oneDNN's kernels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.compiler import explain_missing_compiler
from pipelines.core.gradients import no_grad
from pipelines.core.registry import setting
from pipelines.quantizers.calibrated import CalibratedQuantizer, Progress
from pipelines.quantizers.calibration import Calibration, replay
from pipelines.quantizers.codec import BIAS
from pipelines.quantizers.contract import CONVOLUTIONS, LINEAR, TINY
from pipelines.quantizers.int8 import Int8Codec
from pipelines.quantizers.machine import Machine
from pipelines.quantizers.onednn import fits_onednn
from pipelines.quantizers.packed import WeightOnly

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["CompiledSettings", "CompiledW8A8", "fits_compiled"]

_MOST_CALLS = 24


def fits_compiled(machine: Machine) -> str | None:
    """Say why it cannot run."""
    return fits_onednn(machine) or explain_missing_compiler("cpu")


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
            built[name] = self._build(cast("WeightedLayer", network.get_submodule(name)), *ranges.get(name, (0.0, 0.0)))
        return built

    def _build(self, layer: WeightedLayer, low: float, high: float) -> torch.nn.Module:
        from pipelines.quantizers.compiled_layers import LEVELS, SCALE, ZERO  # late: they need PyTorch imported

        parts = Int8Codec().pack(layer.weight.detach().flatten(1).float())
        scale = max((max(high, 0.0) - min(low, 0.0)) / LEVELS, TINY)
        tensors = {
            "codes": parts["codes"].view(layer.weight.shape),
            "scales": parts["scales"].flatten(),
            SCALE: torch.tensor(scale, dtype=torch.float64),
            ZERO: torch.tensor(round(-min(low, 0.0) / scale)),
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
        from pipelines.quantizers.compiled_layers import StaticConv2d, StaticLinear  # late: as above

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

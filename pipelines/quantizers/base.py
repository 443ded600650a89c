"""How a copy of a network is quantized; contract, plan of layers and report can be imported from here too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.devices import is_out_of_memory
from pipelines.core.errors import MethodFitError, ModelError, StepwiseError
from pipelines.core.gradients import no_grad
from pipelines.core.interruption import drop_copied_hooks
from pipelines.quantizers.calibrated import CalibratedQuantizer, Progress
from pipelines.quantizers.calibration import Calibration, require_calibration
from pipelines.quantizers.contract import CONVOLUTIONS, LINEAR, Quantizer, StorableQuantizer
from pipelines.quantizers.layer_plan import SKIPPED, LayerPlan, Skipped, get_layer, plan_layers
from pipelines.quantizers.report import LayerReport, Report, build_report, sqnr

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = [
    "CONVOLUTIONS",
    "LINEAR",
    "SKIPPED",
    "LayerPlan",
    "LayerReport",
    "Quantizer",
    "Report",
    "Skipped",
    "StorableQuantizer",
    "build_report",
    "plan_layers",
    "quantize_network",
    "sqnr",
]


@no_grad
def quantize_network(
    network: torch.nn.Module,
    quantizer: Quantizer,
    label: str = "The quantizer",
    cancelled: Callable[[], bool] = lambda: False,
    in_place: bool = False,
    calibration: Calibration | None = None,
    progress: Progress = lambda stage, done, total: None,
    device: str | None = None,
) -> torch.nn.Module:
    """Make a quantized copy; the given network is only read.

    Layers are changed one by one, so beside the network and the copy no more than one layer is held in addition.

    Args:
        network: in full precision.
        quantizer: of the table.
        label: its name, for messages.
        cancelled: polled before every layer.
        in_place: change the network itself, which nobody else may hold, so that both are never whole in memory.
        calibration: recorded calls of the network, for methods that are calibrated.
        progress: called with a sentence of what a calibrated method does.
        device: where the network is to run, if it is changed in place and is somewhere else: each layer goes there
            before it is quantized, and what is not quantized at the end, so that the device never holds all of it.

    Raises:
        MethodFitError: no layer would be changed, or a method that is calibrated has no calibration.
        ModelError: a library could not change a layer.
        Cancelled: the person stopped it.
    """
    plan = plan_layers(network, quantizer)
    if not plan.quantized_layers:
        reasons = (
            ", ".join(sorted({one.reason for one in plan.skipped})) or "it has no linear and no convolution layers"
        )
        raise MethodFitError(f"{label} touches no layer of this model ({reasons}). Choose another method or model.")
    built: Mapping[str, torch.nn.Module] = {}
    if isinstance(quantizer, CalibratedQuantizer):
        calls = require_calibration(calibration, label)
        built = quantizer.quantize_layers(network, plan.quantized_layers, calls, cancelled, progress)
    # The copy shares these layers only until each is replaced; everything else in it is its own.
    layers = [network.get_submodule(name) for name in plan.quantized_layers]
    copied = network if in_place else copy.deepcopy(network, {id(layer): layer for layer in layers})
    del layers
    if copied is not network:
        drop_copied_hooks(copied)
    for name in plan.quantized_layers:
        if cancelled():
            raise Cancelled
        parent, _, attribute = name.rpartition(".")
        given = get_layer(copied, name)
        given = given if device is None or built else given.to(device)
        layer = built[name] if built else _quantize_layer(quantizer, given, name, label)
        setattr(copied.get_submodule(parent), attribute, layer)
    if device is not None:
        _move_rest(copied, plan.quantized_layers, device)
    quantizer.finish(copied)
    return copied.eval().requires_grad_(False)


def _move_rest(network: torch.nn.Module, quantized: Sequence[str], device: str) -> None:
    """Move what is not quantized; some libraries' packed layers cannot be moved."""
    inside = tuple(f"{name}." for name in quantized)
    for name, module in network.named_modules():
        if not f"{name}.".startswith(inside):
            module._apply(lambda tensor: tensor.to(device), recurse=False)


def _as_stock(layer: WeightedLayer) -> WeightedLayer:
    """Return a layer as one of PyTorch's own class, where it stands for that: some libraries choose by the class."""
    stock = getattr(layer, "stands_for", type(layer))
    if stock is type(layer):
        return layer
    copied = copy.copy(layer)  # shares the weights; the given network is only read
    copied._parameters = dict(layer._parameters)
    copied.__class__ = stock
    return copied


def _quantize_layer(quantizer: Quantizer, layer: WeightedLayer, name: str, label: str) -> torch.nn.Module:
    try:
        return quantizer.quantize(_as_stock(layer))
    except StepwiseError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{label} could not quantize the layer {name} ({first}). Choose another method.") from error

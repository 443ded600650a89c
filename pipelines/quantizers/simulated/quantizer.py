"""What all simulated methods share: a plan of the layers, recorded inputs, fitted weights, calibrated ranges."""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError
from pipelines.core.gradients import no_grad
from pipelines.core.interruption import drop_copied_hooks
from pipelines.quantizers.calibrated import CalibratedQuantizer, Progress
from pipelines.quantizers.calibration import Calibration
from pipelines.quantizers.contract import CONVOLUTIONS, LINEAR
from pipelines.quantizers.simulated.activations import round_to_range
from pipelines.quantizers.simulated.attention import attach_scores
from pipelines.quantizers.simulated.clock import attach_clock
from pipelines.quantizers.simulated.fitting import fit_layer
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.observing import Observations, group_channels, list_edges, search_shrink
from pipelines.quantizers.simulated.reconstruction import reconstruct
from pipelines.quantizers.simulated.rounding import ANNEALING, Annealing
from pipelines.quantizers.simulated.scores import ScoreSpec
from pipelines.quantizers.simulated.statistics import LayerInputs, collect_inputs, split_by_memory

if TYPE_CHECKING:
    from pipelines.quantizers.simulated.activation_quantizer import ActivationQuantizer
    from pipelines.quantizers.simulated.layers import SimulatedLayer
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["Given", "Plan", "SimulatedQuantizer", "calibrate_ranges", "copy_with_layers"]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Says what a simulated method makes of a network.

    Attributes:
        specs: name of a layer to what it becomes.
        calibration: the calls that everything is learned from.
        annealing: of adaptive rounding, by layer and by block.
        blocks: reconstruct blocks of layers, one after another.
        only: with `blocks`, the layers whose rounding is learned; None for all.
        layer_weight: with `blocks`, of the layers' own errors beside the block's.
    """

    specs: Mapping[str, LayerSpec]
    calibration: Calibration
    annealing: Annealing = ANNEALING
    blocks: bool = False
    only: frozenset[str] | None = None
    layer_weight: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """Holds what a simulated method plans from.

    Attributes:
        network: in full precision.
        layers: name to each layer that may be rounded.
        calibration: recorded calls of the network.
        cancelled: says whether the person stopped it.
        progress: takes a sentence, what is done and what there is.
    """

    network: torch.nn.Module
    layers: Mapping[str, WeightedLayer]
    calibration: Calibration
    cancelled: Callable[[], bool]
    progress: Progress


class SimulatedQuantizer(CalibratedQuantizer):
    """Simulates a quantization: what is rounded is rounded, and computed in floating point.

    A method says by `plan` what becomes of each layer.

    Attributes:
        scores: how attention's scores are rounded.
    """

    layers = LINEAR + CONVOLUTIONS
    is_simulated = True
    scores = ScoreSpec()

    @abc.abstractmethod
    def plan(self, given: Given) -> Plan:
        """Say what becomes of each layer.

        Raises:
            MethodFitError: the method is for other networks.
            Cancelled: the person stopped it.
        """

    def quantize_layers(
        self,
        network: torch.nn.Module,
        names: Sequence[str],
        calibration: Calibration,
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> Mapping[str, torch.nn.Module]:
        from pipelines.quantizers.simulated.layers import build_layer  # late: subclasses of PyTorch's need it imported

        layers = {name: cast("WeightedLayer", network.get_submodule(name)) for name in names}
        plan = self.plan(Given(network, layers, calibration, cancelled, progress))
        built: dict[str, SimulatedLayer] = {}
        for name, inputs in _inputs_in_turns(network, layers, plan, cancelled, progress):
            if cancelled():
                raise Cancelled
            progress("Rounding layer", len(built), len(layers))
            layer, spec = layers[name], plan.specs[name]
            built[name] = build_layer(layer, spec, fit_layer(layer, spec, inputs, plan.annealing, cancelled))
        copied = copy_with_layers(network, built)
        attach_clock(copied)
        attach_scores(copied, self.scores)
        calibrate_ranges(copied, built, plan.calibration, cancelled, progress)
        if plan.blocks:
            reconstruct(
                network,
                copied,
                built,
                plan.calibration,
                plan.annealing,
                plan.only,
                plan.layer_weight,
                cancelled,
                progress,
            )
        return built

    def finish(self, network: torch.nn.Module) -> None:
        attach_clock(network)
        attach_scores(network, self.scores)

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        return cast("SimulatedLayer", layer).effective_weight

    def count_nominal_bits(self, layer: WeightedLayer) -> float:
        bias = 0 if layer.bias is None else 8 * layer.bias.numel() * layer.bias.element_size()
        return cast("SimulatedLayer", layer).nominal_bits + bias

    def tensors(self, layer: WeightedLayer) -> dict[str, torch.Tensor]:
        return layer.state_dict()

    def restore(self, layer: WeightedLayer, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        from pipelines.quantizers.simulated.layers import SimulatedLayer  # late: as above

        return SimulatedLayer.restore(layer, tensors)


def _inputs_in_turns(
    network: torch.nn.Module,
    layers: Mapping[str, WeightedLayer],
    plan: Plan,
    cancelled: Callable[[], bool],
    progress: Progress,
) -> Iterator[tuple[str, LayerInputs | None]]:
    vectors = 4096 if any(spec.rounding == "feedback" for spec in plan.specs.values()) else 512
    needing = {name: layer for name, layer in layers.items() if _needs_inputs(plan.specs[name])}
    yield from ((name, None) for name in layers if name not in needing)
    for names in split_by_memory(needing, vectors):
        progress("Recording inputs of layers", len(layers) - len(needing), len(layers))
        inputs = collect_inputs(network, names, plan.calibration, cancelled, vectors)
        yield from ((name, inputs.get(name)) for name in names)


def _needs_inputs(spec: LayerSpec) -> bool:
    return spec.smoothing >= 0 or spec.rotation in ("outlier", "auto") or spec.rounding != "nearest"


def copy_with_layers(network: torch.nn.Module, built: Mapping[str, torch.nn.Module]) -> torch.nn.Module:
    """Copy a network with other layers in it; all tensors are shared, none is copied."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    copied = copy.deepcopy(network, shared)
    drop_copied_hooks(copied)
    for name, layer in built.items():
        parent, _, attribute = name.rpartition(".")
        setattr(copied.get_submodule(parent), attribute, layer)
    return copied


@no_grad
def calibrate_ranges(
    network: torch.nn.Module,
    layers: Mapping[str, SimulatedLayer],
    calibration: Calibration,
    cancelled: Callable[[], bool],
    progress: Progress,
) -> None:
    """Run the calls through a network of simulated layers, and set the ranges of their inputs that are calibrated.

    While they are observed, inputs are not rounded.

    Raises:
        Cancelled: the person stopped it.
    """
    halves = [
        cast("ActivationQuantizer", half)
        for layer in layers.values()
        for half in layer.halves
        if cast("ActivationQuantizer", half).spec.is_calibrated
    ]
    if not halves:
        return
    try:
        for half in halves:
            half.observations = Observations()
        for index, call in enumerate(calibration.calls):
            if cancelled():
                raise Cancelled
            progress("Calibrating ranges: evaluation", index, len(calibration.calls))
            call.run(network)
        for half in halves:
            if half.observations is not None and half.observations.times:
                _set_ranges(half, half.observations)
    finally:
        for half in halves:
            half.observations = None


def _set_ranges(half: ActivationQuantizer, seen: Observations) -> None:
    spec, form = half.spec, half.form
    if form is None:
        raise MethodFitError("Inputs in full precision have no ranges to calibrate.")
    edges = list_edges(seen.times, spec.intervals) if spec.scope == "interval" else torch.empty(0)
    members = torch.empty(0, dtype=torch.long)
    if spec.channel_groups > 1:
        members = group_channels(*seen.find_ends(range(len(seen.times))), spec.channel_groups)
    lows, highs = [], []
    for calls in seen.split(edges):
        low, high = seen.find_ends(calls)
        if len(members):
            empty = torch.zeros(spec.channel_groups, device=low.device)
            low = empty.scatter_reduce(0, members.to(low.device), low, "amin")
            high = empty.scatter_reduce(0, members.to(high.device), high, "amax")
        else:
            low, high = low.amin()[None], high.amax()[None]
            if spec.search:
                samples = torch.cat([seen.samples[call] for call in calls])
                found = search_shrink(samples, low[0], high[0], lambda values, a, b: round_to_range(values, form, a, b))
                low, high = found[0][None], found[1][None]
        lows.append(low)
        highs.append(high)
    half.low, half.high, half.edges, half.members = torch.stack(lows), torch.stack(highs), edges, members

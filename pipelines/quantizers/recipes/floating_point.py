"""Small floating-point numbers for weights and inputs: a format for each layer, with rounding that may be learned."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from pipelines.core.registry import setting
from pipelines.quantizers.simulated.activations import ActivationSpec, round_to_range
from pipelines.quantizers.simulated.fitting import fit_rows
from pipelines.quantizers.simulated.formats import parse_format
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer
from pipelines.quantizers.simulated.rounding import Annealing
from pipelines.quantizers.simulated.statistics import LayerInputs, collect_inputs, split_by_memory

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["Fp4Dit", "Fp4DitSettings", "FpSearch", "FpSearchSettings", "choose_format", "list_formats"]


def list_formats(bits: int) -> list[str]:
    """List the floating-point formats of so many bits: every exponent from one bit on, and at least 0 of mantissa."""
    return [f"fp{bits}_e{exponent}m{bits - 1 - exponent}" for exponent in range(1, min(bits, 6))]


def choose_format(values: torch.Tensor, bits: int) -> str:
    """Choose the format of the least squared error, scaled to the largest magnitude of all values."""

    def error(name: str) -> float:
        form = parse_format(name)
        if form is None:
            raise ValueError(f"{name} rounds nothing")
        return float((round_to_range(values, form, values.min(), values.max()) - values).square().sum())

    return min(list_formats(bits), key=error)


@dataclasses.dataclass(frozen=True)
class FpSearchSettings:
    weight_bits: int = setting(8, "Bits of a weight.", choices=(4, 6, 8))
    activation_bits: int = setting(8, "Bits of a layer's inputs.", choices=(4, 6, 8))
    learned: bool = setting(False, "Learn the rounding of the weights.")
    iterations: int = setting(200, "Gradient steps of each layer.", low=1, high=20_000)


class FpSearch(SimulatedQuantizer):
    """Finds for each layer the exponent and mantissa that suit its weights, and those that suit its inputs.

    Source: Chen et al., Low-bitwidth floating point quantization for diffusion models, arXiv:2408.06995.
    Differs: weights have a scale a channel, which stands for the searched bias; inputs are scaled live, by token.
    """

    def __init__(self, settings: FpSearchSettings = FpSearchSettings()):
        self.settings = settings

    def plan(self, given: Given) -> Plan:
        chosen = self.settings
        specs: dict[str, LayerSpec] = {}
        for names in split_by_memory(given.layers):
            given.progress("Choosing formats of layers", len(specs), len(given.layers))
            inputs = collect_inputs(given.network, names, given.calibration.thin(16), given.cancelled)
            for name in names:
                specs[name] = self._choose(given.layers[name], inputs.get(name))
        return Plan(specs, given.calibration, Annealing(iterations=chosen.iterations))

    def _choose(self, layer: WeightedLayer, inputs: LayerInputs | None) -> LayerSpec:
        chosen, rows = self.settings, layer.weight.detach().flatten(1).float()
        spec = LayerSpec(search=True, rounding="adaround" if chosen.learned else "nearest")

        def error(form: str) -> float:
            rounded, _ = fit_rows(rows, dataclasses.replace(spec, weights=form, search=False))
            return float((rounded - rows).square().sum())

        weights = min(list_formats(chosen.weight_bits), key=error)
        names = list_formats(chosen.activation_bits)
        given = names[len(names) // 2] if inputs is None else choose_format(inputs.rows, chosen.activation_bits)
        return dataclasses.replace(spec, weights=weights, activations=ActivationSpec(given, "token"))


@dataclasses.dataclass(frozen=True)
class Fp4DitSettings:
    weights: str = setting("fp4_e2m1", "Format of the weights.", choices=("fp4_e2m1", "fp6_e2m3", "fp6_e3m2"))
    activations: str = setting(
        "fp6_e3m2", "Format of the inputs.", choices=("fp4_e2m1", "fp6_e3m2", "fp8_e4m3", "int6", "int8")
    )
    iterations: int = setting(200, "Gradient steps of each layer.", low=1, high=20_000)


class Fp4Dit(SimulatedQuantizer):
    """Rounds weights to four-bit floating point with learned rounding, and inputs live by token.

    Learned rounding goes from one number of the format to the next, so its step follows the magnitude of the weight:
    the scale-aware form of AdaRound.

    Source: Chen et al., FP4DiT, arXiv:2503.15465.
    Differs: layers are learned one by one and not as blocks; all layers have the same format.
    """

    def __init__(self, settings: Fp4DitSettings = Fp4DitSettings()):
        self.settings = settings

    def plan(self, given: Given) -> Plan:
        chosen = self.settings
        spec = LayerSpec(
            weights=chosen.weights,
            scope="group",
            search=True,
            activations=ActivationSpec(chosen.activations, "token"),
            rounding="adaround",
        )
        return Plan(dict.fromkeys(given.layers, spec), given.calibration, Annealing(iterations=chosen.iterations))

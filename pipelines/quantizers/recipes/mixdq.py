"""MixDQ: the first text token stays exact, and an integer programme spends the bits where they show."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.core.registry import setting
from pipelines.quantizers.recipes.free import text_layers
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.integer_programme import choose_options
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer
from pipelines.quantizers.simulated.sensitivity import measure_input_noise, measure_weight_noise

__all__ = ["PROBES", "WEIGHT_BITS", "MixDq", "MixDqSettings", "choose_bits"]

WEIGHT_BITS, INPUT_BITS = (2, 4, 8), (4, 8)
PROBES = 16
"""Calls whose backward pass weighs the layers."""


@dataclasses.dataclass(frozen=True)
class MixDqSettings:
    weight_bits: float = setting(
        4.0, "Bits of a weight on average: layers have 2, 4 or 8.", low=2.0, high=8.0, step=0.1
    )
    activation_bits: float = setting(
        8.0, "Bits of a layer's inputs on average; layers have 4 or 8.", low=4.0, high=8.0, step=0.1
    )
    first_token: bool = setting(
        True, "The first text token's keys and values stay in full precision (cross-attention)."
    )
    feedback: bool = setting(False, "Round with error feedback (GPTQ), which MixDQ does not.")


class MixDq(SimulatedQuantizer):
    """Gives each layer 2, 4 or 8 bits for its weights and 4 or 8 for its inputs, as an integer programme chooses.

    Source: Zhao et al., MixDQ, arXiv:2405.17873, sections 4.1 to 4.3.
    Differs: one sensitivity for all layers, the squared error of the output to first order, in place of SSIM of the
    picture for the layers of content and SQNR for the rest; inputs are rounded by token, measured live.
    """

    def __init__(self, settings: MixDqSettings = MixDqSettings()):
        self.settings = settings

    def plan(self, given: Given) -> Plan:
        chosen, probes = self.settings, given.calibration.thin(PROBES)
        rounding = "feedback" if chosen.feedback else "nearest"
        weights = [LayerSpec(weights=f"int{bits}", search=True, rounding=rounding) for bits in WEIGHT_BITS]
        inputs = [ActivationSpec(f"int{bits}", "token") for bits in INPUT_BITS]
        given.progress("Weighing the layers' weights", 0, 1)
        weight_noise = measure_weight_noise(given.network, given.layers, weights, probes, given.cancelled)
        given.progress("Weighing the layers' inputs", 0, 1)
        input_noise = measure_input_noise(given.network, list(given.layers), inputs, probes, cancelled=given.cancelled)
        sizes = {name: layer.weight.numel() for name, layer in given.layers.items()}
        of_weights = choose_bits(weight_noise, sizes, WEIGHT_BITS, chosen.weight_bits)
        of_inputs = choose_bits(input_noise, dict.fromkeys(given.layers, 1), INPUT_BITS, chosen.activation_bits)
        texts = text_layers(given.layers) if chosen.first_token else frozenset()
        specs = {
            name: dataclasses.replace(
                weights[of_weights[name]], activations=inputs[of_inputs[name]], keep_first=name in texts
            )
            for name in given.layers
        }
        return Plan(specs, given.calibration)


def choose_bits(
    noise: Mapping[str, list[float]], sizes: Mapping[str, int], bits: tuple[int, ...], average: float
) -> dict[str, int]:
    """Choose the place in `bits` for each layer, so that the noise is least where the bits average to no more.

    Args:
        noise: of each layer, for each number of bits.
        sizes: weights of the average.
        bits: that a layer may have.
        average: of all layers.
    """
    costs = [[size * one for one in bits] for size in sizes.values()]
    options = choose_options([noise[name] for name in sizes], costs, int(average * sum(sizes.values())))
    return dict(zip(sizes, options, strict=True))

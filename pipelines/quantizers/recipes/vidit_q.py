"""ViDiT-Q: inputs measured live, token by token, after their channels were balanced."""

from __future__ import annotations

import dataclasses

from pipelines.core.registry import setting
from pipelines.quantizers.recipes.mixdq import PROBES, WEIGHT_BITS, choose_bits
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer
from pipelines.quantizers.simulated.sensitivity import measure_weight_noise

__all__ = ["ViditQ", "ViditQSettings"]


@dataclasses.dataclass(frozen=True)
class ViditQSettings:
    weight_bits: int = setting(8, "Bits of a weight.", low=2, high=8)
    activation_bits: int = setting(8, "Bits of a layer's inputs.", low=2, high=8)
    smoothing: float = setting(
        0.3, "Exponent by which outliers of the inputs move into the weights.", low=0.0, high=1.0, step=0.05
    )
    mixed: bool = setting(
        False, "Give layers 2, 4 or 8 bits a weight, as many as above on average, by what shows in the output."
    )
    rotate: bool = setting(True, "Then spread what is left of them over all channels (Hadamard).")


class ViditQ(SimulatedQuantizer):
    """Rounds weights by channel and inputs by token, both by their extremes, after static and dynamic balancing.

    Source: Zhao et al., ViDiT-Q, arXiv:2406.02540, sections 4.1 to 4.3.
    Differs: mixed precision has one sensitivity, the output's squared error to first order, in place of a metric for
    each kind of layer; a pixel of a convolution's input counts as a token; widths that are no power of two are rotated
    with a cosine transform beside; all timesteps share the factors of the channels.
    """

    def __init__(self, settings: ViditQSettings = ViditQSettings()):
        self.settings = settings

    def plan(self, given: Given) -> Plan:
        chosen = self.settings
        spec = LayerSpec(
            weights=f"int{chosen.weight_bits}",
            activations=ActivationSpec(f"int{chosen.activation_bits}", "token"),
            smoothing=chosen.smoothing,
            rotation="hadamard" if chosen.rotate else "none",
        )
        if not chosen.mixed:
            return Plan(dict.fromkeys(given.layers, spec), given.calibration)
        given.progress("Weighing the layers", 0, 1)
        weights = [LayerSpec(weights=f"int{bits}") for bits in WEIGHT_BITS]
        noise = measure_weight_noise(
            given.network, given.layers, weights, given.calibration.thin(PROBES), given.cancelled
        )
        sizes = {name: layer.weight.numel() for name, layer in given.layers.items()}
        places = choose_bits(noise, sizes, WEIGHT_BITS, chosen.weight_bits)
        specs = {name: dataclasses.replace(spec, weights=f"int{WEIGHT_BITS[places[name]]}") for name in given.layers}
        return Plan(specs, given.calibration)

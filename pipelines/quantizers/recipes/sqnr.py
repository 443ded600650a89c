"""Strategies by SQNR: more bits for the blocks that suffer, smoothing for the layers whose inputs do."""

from __future__ import annotations

import dataclasses

from pipelines.core.registry import setting
from pipelines.quantizers.calibration import Calibration
from pipelines.quantizers.recipes.quest import PROBES, choose_worst
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer
from pipelines.quantizers.simulated.reconstruction import find_blocks
from pipelines.quantizers.simulated.sensitivity import measure_input_noise, measure_weight_noise

__all__ = ["Sqnr", "SqnrSettings", "keep_noisiest"]


@dataclasses.dataclass(frozen=True)
class SqnrSettings:
    weight_bits: int = setting(4, "Bits of a weight.", low=2, high=8)
    activation_bits: int = setting(8, "Bits of a layer's inputs.", low=2, high=8)
    high_bits: int = setting(8, "Bits of both in the blocks that suffer most.", low=4, high=8)
    blocks: float = setting(0.1, "Share of these blocks.", low=0.0, high=1.0, step=0.05)
    smoothed: float = setting(0.25, "Share of the layers that are smoothed.", low=0.0, high=1.0, step=0.05)
    one_step: bool = setting(True, "Calibrate on the noisiest step alone; without, on all.")


def keep_noisiest(calibration: Calibration) -> Calibration:
    """Keep the calls of the largest time."""
    latest = max(call.time for call in calibration.calls)
    return Calibration(tuple(call for call in calibration.calls if call.time == latest))


class Sqnr(SimulatedQuantizer):
    """Rounds weights by channel and inputs by tensor, and spends more where the noise in the output comes from.

    Source: Yang et al., Efficient quantization strategies for latent diffusion models, arXiv:2312.05431.
    Differs: the noise of a block is what rounding it alone does to the output, to first order, and not a SQNR relative
    to the block's own output; precision does not change from step to step.
    """

    def __init__(self, settings: SqnrSettings = SqnrSettings()):
        self.settings = settings

    def plan(self, given: Given) -> Plan:
        chosen, probes = self.settings, given.calibration.thin(PROBES)
        form = f"int{chosen.activation_bits}"
        spec = LayerSpec(weights=f"int{chosen.weight_bits}", search=True, activations=ActivationSpec(form, "static"))
        high = f"int{chosen.high_bits}"
        given.progress("Weighing the layers", 0, 1)
        of_weights = measure_weight_noise(given.network, given.layers, [spec], probes, given.cancelled)
        live = [ActivationSpec(form, "dynamic")]
        of_inputs = measure_input_noise(given.network, list(given.layers), live, probes, cancelled=given.cancelled)
        blocks = find_blocks(given.network, list(given.layers))
        noise = {
            block: sum(of_weights[name][0] + of_inputs[name][0] for name in members)
            for block, members in blocks.items()
        }
        worst = {name for block in choose_worst(noise, chosen.blocks) for name in blocks[block]}
        smoothed = choose_worst({name: found[0] for name, found in of_inputs.items()}, chosen.smoothed)
        specs = {name: dataclasses.replace(spec, smoothing=0.5) if name in smoothed else spec for name in given.layers}
        for name in worst:
            specs[name] = dataclasses.replace(specs[name], weights=high, activations=ActivationSpec(high, "static"))
        return Plan(specs, keep_noisiest(given.calibration) if chosen.one_step else given.calibration)

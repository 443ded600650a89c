"""QuEST's choice of layers, with learned rounding where it trains: layers of the time, and those that suffer most."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.core.registry import setting
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer
from pipelines.quantizers.simulated.rounding import Annealing
from pipelines.quantizers.simulated.sensitivity import measure_input_noise, measure_weight_noise

__all__ = ["Quest", "QuestSettings", "choose_worst"]

PROBES = 16
"""Calls whose backward pass weighs the layers."""


@dataclasses.dataclass(frozen=True)
class QuestSettings:
    weight_bits: int = setting(4, "Bits of a weight.", low=2, high=8)
    activation_bits: int = setting(4, "Bits of a layer's inputs.", low=2, high=8)
    share: float = setting(0.25, "Of the layers, those whose error shows most.", low=0.0, high=1.0, step=0.05)
    intervals: int = setting(8, "Intervals of steps that have ranges of their own.", low=1, high=50)
    iterations: int = setting(200, "Gradient steps of each block.", low=1, high=20_000)


def choose_worst(noise: Mapping[str, float], share: float) -> frozenset[str]:
    """Choose a share of the layers, those of the largest noise."""
    count = round(share * len(noise))
    return frozenset(sorted(noise, key=lambda name: -noise[name])[:count])


class Quest(SimulatedQuantizer):
    """Learns the rounding of the layers of the time and of the most sensitive ones only, with ranges by interval.

    Source: Wang et al., QuEST, arXiv:2402.03666.
    Differs: QuEST trains the chosen layers' weights and ranges; here their weights may only go up or down to the next
    number, and ranges are calibrated. Sensitive are those whose rounding changes the output most, to first order.
    """

    def __init__(self, settings: QuestSettings = QuestSettings()):
        self.settings = settings

    def plan(self, given: Given) -> Plan:
        chosen, probes = self.settings, given.calibration.thin(PROBES)
        form = f"int{chosen.activation_bits}"
        spec = LayerSpec(
            weights=f"int{chosen.weight_bits}",
            search=True,
            activations=ActivationSpec(form, "interval", chosen.intervals, search=True),
        )
        given.progress("Weighing the layers", 0, 1)
        of_weights = measure_weight_noise(given.network, given.layers, [spec], probes, given.cancelled)
        live = [ActivationSpec(form, "dynamic")]
        of_inputs = measure_input_noise(given.network, list(given.layers), live, probes, cancelled=given.cancelled)
        worst = choose_worst({name: of_weights[name][0] + of_inputs[name][0] for name in given.layers}, chosen.share)
        of_time = frozenset(name for name in given.layers if name.endswith("time_emb_proj") or ".norm" in name)
        annealing = Annealing(iterations=chosen.iterations)
        return Plan(dict.fromkeys(given.layers, spec), given.calibration, annealing, blocks=True, only=worst | of_time)

"""LRQ-DiT: weights on levels that are finer near zero, and inputs rotated as suits each layer."""

from __future__ import annotations

import dataclasses

from pipelines.core.registry import setting
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer

__all__ = ["LrqDit", "LrqDitSettings"]


@dataclasses.dataclass(frozen=True)
class LrqDitSettings:
    weight_bits: int = setting(3, "Bits of a weight.", low=2, high=4)
    activation_bits: int = setting(4, "Bits of a layer's inputs.", low=2, high=8)
    search: bool = setting(True, "Search offset and ends of the levels for each output; without, the extremes.")
    rotation: str = setting(
        "auto", "Hadamard, outlier-aware, or by layer.", choices=("none", "hadamard", "outlier", "auto")
    )


class LrqDit(SimulatedQuantizer):
    """Rounds weights to twin-log levels by channel, and rotated inputs by token, measured live.

    Source: Yang et al., LRQ-DiT, arXiv:2508.03485.
    Differs: a layer's rotation is the one of the least error of its outputs, none included, and not chosen by a
    threshold; see `fit_twin_log_levels` and `build_outlier_rotation`.
    """

    def __init__(self, settings: LrqDitSettings = LrqDitSettings()):
        self.settings = settings

    def plan(self, given: Given) -> Plan:
        chosen = self.settings
        spec = LayerSpec(
            weights=f"twin_log{chosen.weight_bits}",
            search=chosen.search,
            activations=ActivationSpec(f"int{chosen.activation_bits}", "token"),
            rotation=chosen.rotation,
        )
        return Plan(dict.fromkeys(given.layers, spec), given.calibration)

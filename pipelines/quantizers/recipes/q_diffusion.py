"""Q-Diffusion: searched ranges, a range for each half of a joined skip connection, rounding learned block by block."""

from __future__ import annotations

import dataclasses

from pipelines.core.registry import setting
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer
from pipelines.quantizers.simulated.rounding import Annealing
from pipelines.quantizers.simulated.scores import ScoreSpec
from pipelines.quantizers.simulated.splits import list_splits

__all__ = ["QDiffusion", "QDiffusionSettings"]


@dataclasses.dataclass(frozen=True)
class QDiffusionSettings:
    weight_bits: int = setting(4, "Bits of a weight.", low=2, high=8)
    activation_bits: int = setting(8, "Bits of a layer's inputs.", low=2, high=8)
    split: bool = setting(True, "Of a joined skip connection each half has its own range (U-Nets).")
    reconstruct: bool = setting(True, "Learn the rounding block by block; without, weights go to the nearest.")
    iterations: int = setting(200, "Gradient steps of each block.", low=1, high=20_000)


class QDiffusion(SimulatedQuantizer):
    """Rounds weights by channel and inputs by tensor, with ranges of the least error from evenly spaced steps.

    Attention's scores keep 16 bits, which is not rounded here.

    Source: Li et al., Q-Diffusion, arXiv:2302.04304.
    Differs: see `reconstruct`; ranges of activations are searched once, and not trained after; weights' ranges are
    those of `search_ranges`, with the squared error.
    """

    scores = ScoreSpec()

    def __init__(self, settings: QDiffusionSettings = QDiffusionSettings()):
        self.settings = settings

    def plan(self, given: Given) -> Plan:
        chosen = self.settings
        spec = LayerSpec(
            weights=f"int{chosen.weight_bits}",
            search=True,
            activations=ActivationSpec(f"int{chosen.activation_bits}", "static", search=True),
        )
        splits = list_splits(given.network) if chosen.split else {}
        specs = {name: dataclasses.replace(spec, split=splits.get(name, 0)) for name in given.layers}
        return Plan(specs, given.calibration, Annealing(iterations=chosen.iterations), blocks=chosen.reconstruct)

"""DGQ: channels of like magnitude share a range, and attention's scores are rounded to powers of two."""

from __future__ import annotations

import dataclasses

from pipelines.core.registry import setting
from pipelines.quantizers.recipes.free import text_layers
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer
from pipelines.quantizers.simulated.scores import ScoreSpec

__all__ = ["Dgq", "DgqSettings"]


@dataclasses.dataclass(frozen=True)
class DgqSettings:
    weight_bits: int = setting(4, "Bits of a weight.", low=2, high=8)
    activation_bits: int = setting(6, "Bits of a layer's inputs.", low=2, high=8)
    groups: int = setting(8, "Groups of channels of like magnitude, with a range each.", choices=(1, 8, 16))
    score_bits: int = setting(6, "Bits of an attention score.", low=2, high=8)
    first_token: bool = setting(True, "The first text token's keys, values and scores stay as they are.")


class Dgq(SimulatedQuantizer):
    """Rounds inputs by groups of channels with calibrated ranges, and scores by their logarithm.

    Source: Ryu et al., DGQ, arXiv:2501.04304.
    Differs: outliers along the pixels get no groups, as these would fix the picture's size; scores of self-attention
    are rounded in the same way as those of the text.
    """

    def __init__(self, settings: DgqSettings = DgqSettings()):
        self.settings = settings
        self.scores = ScoreSpec("log2", settings.score_bits, settings.first_token)

    def plan(self, given: Given) -> Plan:
        chosen = self.settings
        inputs = ActivationSpec(f"int{chosen.activation_bits}", "static", channel_groups=chosen.groups)
        spec = LayerSpec(weights=f"int{chosen.weight_bits}", search=True, activations=inputs)
        texts = text_layers(given.layers) if chosen.first_token else frozenset()
        return Plan(
            {name: dataclasses.replace(spec, keep_first=name in texts) for name in given.layers}, given.calibration
        )

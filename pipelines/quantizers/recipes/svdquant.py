"""SVDQuant: outliers move into the weights, and their largest directions into a small branch in full precision."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pipelines.core.registry import setting
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["SvdQuant", "SvdQuantSettings"]


@dataclasses.dataclass(frozen=True)
class SvdQuantSettings:
    format: str = setting(
        "int4", "Of weights and inputs: int4 in groups of 64, or fp4 in groups of 16.", choices=("int4", "fp4")
    )
    activations: str = setting("int4", "Of the inputs.", choices=("int4", "fp4", "int8"))
    rank: int = setting(32, "Of the branch in full precision.", low=0, high=256)
    feedback: bool = setting(True, "Round with error feedback (GPTQ); integers only.")


class SvdQuant(SimulatedQuantizer):
    """Smooths each layer by the exponent that suits it, splits off a branch of low rank, and rounds what is left.

    Source: Li et al., SVDQuant, arXiv:2411.05007, equations 4 to 8; GPTQ on the rest is an option of their code.
    Differs: the exponent is chosen before the branch is split off, from 21 and none at all; fp4 has float32 scales
    where NVFP4 has scales in eight bits.
    """

    def __init__(self, settings: SvdQuantSettings = SvdQuantSettings()):
        self.settings = settings

    def plan(self, given: Given) -> Plan:
        chosen = self.settings
        names = {"int4": "int4", "int8": "int8", "fp4": "fp4_e2m1"}
        spec = LayerSpec(
            weights=names[chosen.format],
            scope="group",
            group_size=16 if chosen.format == "fp4" else 64,
            search=True,
            activations=ActivationSpec(
                names[chosen.activations], "group", group_size=16 if chosen.activations == "fp4" else 64
            ),
            smoothing=2.0,
            rank=chosen.rank,
            rounding="feedback" if chosen.feedback and chosen.format == "int4" else "nearest",
        )
        specs = {
            name: dataclasses.replace(spec, rank=_fit_rank(layer, chosen.rank)) for name, layer in given.layers.items()
        }
        return Plan(specs, given.calibration)


def _fit_rank(layer: WeightedLayer, rank: int) -> int:
    """The branch must stay small beside the weights: at most a quarter of the smaller side."""
    return min(rank, min(len(layer.weight), layer.weight[0].numel()) // 4)

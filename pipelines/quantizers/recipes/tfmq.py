"""TFMQ-DM: what depends on the time alone is kept right by itself, and ranges follow the steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from pipelines.core.errors import MethodFitError
from pipelines.core.registry import setting
from pipelines.core.types import Traits
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer
from pipelines.quantizers.simulated.rounding import Annealing

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["Tfmq", "TfmqSettings", "list_time_layers"]


@dataclasses.dataclass(frozen=True)
class TfmqSettings:
    weight_bits: int = setting(4, "Bits of a weight.", low=2, high=8)
    activation_bits: int = setting(8, "Bits of a layer's inputs.", low=2, high=8)
    time_layers: str = setting(
        "reconstruct",
        "Learn the rounding of the layers that see the time alone on their own outputs, or cache these outputs.",
        choices=("reconstruct", "cache"),
    )
    intervals: int = setting(8, "Intervals of steps that have ranges of their own.", low=1, high=50)
    steps: int = setting(50, "Steps whose outputs a cache holds; counts in its size only.", low=1, high=1000)
    blocks: bool = setting(False, "Learn the rounding of all other layers too, block by block.")
    iterations: int = setting(200, "Gradient steps of each layer or block.", low=1, high=20_000)


def list_time_layers(network: torch.nn.Module, layers: Mapping[str, WeightedLayer]) -> list[str]:
    """Find the layers whose input is an embedding of the time alone.

    Raises:
        MethodFitError: there are none, or their embedding holds other things too.
    """
    found = [name for name in layers if name.endswith(".time_emb_proj")]
    others = [name for name in ("add_embedding", "class_embedding") if getattr(network, name, None) is not None]
    if not found or others:
        why = "its embedding holds more than the time" if found else "it has no residual blocks with a time embedding"
        raise MethodFitError(f"TFMQ-DM does not fit this model: {why}. Choose a U-Net like Stable Diffusion 1.5.")
    return found


class Tfmq(SimulatedQuantizer):
    """Rounds as Q-Diffusion does, but the layers of the time apart, and with ranges for each interval of steps.

    A cache of their outputs is exact: they are computed beforehand in full precision, once a step.

    Source: Huang et al., TFMQ-DM, arXiv:2311.16503, sections 4.2 and 4.3; the cache is that of its longer form.
    Differs: the network's own time embedding stays in full precision for every method here, so the block is that of the
    residual blocks' projections; as their outputs do not depend on each other, each is learned by itself.
    """

    def __init__(self, settings: TfmqSettings = TfmqSettings()):
        self.settings = settings

    @staticmethod
    def refuses_model(traits: Traits) -> str | None:
        if traits.backbone == "unet" and traits.family != "sdxl":
            return None
        why = "its embedding holds more than the time" if traits.backbone == "unet" else "it has no U-Net"
        return f"{why}. Choose a U-Net like Stable Diffusion 1.5"

    def plan(self, given: Given) -> Plan:
        chosen = self.settings
        form = f"int{chosen.activation_bits}"
        spec = LayerSpec(
            weights=f"int{chosen.weight_bits}",
            search=True,
            activations=ActivationSpec(form, "interval", chosen.intervals, search=True),
        )
        specs = dict.fromkeys(given.layers, spec)
        of_time = list_time_layers(given.network, given.layers)
        alone = LayerSpec(tabled=chosen.steps)
        if chosen.time_layers == "reconstruct":
            alone = dataclasses.replace(spec, rounding="adaround")
        specs |= dict.fromkeys(of_time, alone)
        others = frozenset(given.layers) - frozenset(of_time)
        return Plan(specs, given.calibration, Annealing(iterations=chosen.iterations), chosen.blocks, only=others)

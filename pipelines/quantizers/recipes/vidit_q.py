"""ViDiT-Q: inputs measured live, token by token, after their channels were balanced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch

from pipelines.core.registry import setting
from pipelines.quantizers.calibrated import Progress
from pipelines.quantizers.calibration import Calibration
from pipelines.quantizers.contract import WeightedLayer
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.layers import LayerSpec
from pipelines.quantizers.simulated.quantizer import Plan, SimulatedQuantizer

__all__ = ["ViditQ", "ViditQSettings"]


@dataclasses.dataclass(frozen=True)
class ViditQSettings:
    weight_bits: int = setting(8, "Bits of a weight.", low=2, high=8)
    activation_bits: int = setting(8, "Bits of a layer's inputs.", low=2, high=8)
    smoothing: float = setting(
        0.3, "Exponent by which outliers of the inputs move into the weights.", low=0.0, high=1.0, step=0.05
    )
    rotate: bool = setting(True, "Then spread what is left of them over all channels (Hadamard).")


class ViditQ(SimulatedQuantizer):
    """Rounds weights by channel and inputs by token, both by their extremes, after static and dynamic balancing.

    Source: Zhao et al., ViDiT-Q, arXiv:2406.02540, sections 4.1 and 4.2.
    Differs: a pixel of a convolution's input counts as a token; widths that are no power of two are rotated with a
    cosine transform beside; all timesteps share the factors of the channels.
    """

    def __init__(self, settings: ViditQSettings = ViditQSettings()):
        self.settings = settings

    def plan(
        self,
        network: torch.nn.Module,
        layers: Mapping[str, WeightedLayer],
        calibration: Calibration,
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> Plan:
        chosen = self.settings
        spec = LayerSpec(
            weights=f"int{chosen.weight_bits}",
            activations=ActivationSpec(f"int{chosen.activation_bits}", "token"),
            smoothing=chosen.smoothing,
            rotation="hadamard" if chosen.rotate else "none",
        )
        return Plan(dict.fromkeys(layers, spec), calibration)

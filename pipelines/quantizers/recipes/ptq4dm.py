"""PTQ4DM: one range for all steps, calibrated on times that are drawn from a normal distribution."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.registry import setting
from pipelines.quantizers.calibration import Calibration
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer

__all__ = ["Ptq4dm", "Ptq4dmSettings", "draw_by_time"]


@dataclasses.dataclass(frozen=True)
class Ptq4dmSettings:
    weight_bits: int = setting(8, "Bits of a weight.", low=2, high=8)
    activation_bits: int = setting(8, "Bits of a layer's inputs.", low=2, high=8)
    mean: float = setting(0.4, "Mean of the drawn times, of the largest.", low=0.0, high=1.0, step=0.05)
    spread: float = setting(0.4, "Standard deviation of the drawn times.", low=0.0, high=1.0, step=0.05)
    calls: int = setting(64, "Evaluations that are drawn.", low=1, high=1024)


def draw_by_time(
    calibration: Calibration, count: int, mean: float, spread: float, generator: torch.Generator
) -> Calibration:
    """Draw calls whose times are about normally distributed; a call may come several times.

    Args:
        calibration: recorded calls.
        count: to draw.
        mean, spread: of the normal distribution, in parts of the largest time; draws are clamped to 0 and 1.
        generator: of the draws.
    """
    times = torch.tensor([call.time for call in calibration.calls])
    drawn = (mean + spread * torch.randn(count, generator=generator)).clamp(0, 1) * times.max()
    chosen = []
    for time in drawn:
        distance = (times - time).abs()
        nearest = (distance <= distance.min()).nonzero().flatten()
        chosen.append(int(nearest[torch.randint(len(nearest), (), generator=generator)]))
    return Calibration(tuple(calibration.calls[place] for place in chosen))


class Ptq4dm(SimulatedQuantizer):
    """Rounds weights by channel and inputs by tensor, with ranges of the least error on the drawn calls.

    Source: Shang et al., Post-training quantization on diffusion models, arXiv:2211.15736, section 3.3.
    Differs: calls are drawn from whole recorded runs, each the nearest in time, 64 of them and not 1,024 samples.
    """

    def __init__(self, settings: Ptq4dmSettings = Ptq4dmSettings()):
        self.settings = settings

    def plan(self, given: Given) -> Plan:
        chosen = self.settings
        spec = LayerSpec(
            weights=f"int{chosen.weight_bits}",
            activations=ActivationSpec(f"int{chosen.activation_bits}", "static", search=True),
        )
        drawn = draw_by_time(
            given.calibration, chosen.calls, chosen.mean, chosen.spread, torch.Generator().manual_seed(0)
        )
        return Plan(dict.fromkeys(given.layers, spec), drawn)

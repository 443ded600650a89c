"""EDA-DM: calibrated on those calls that are typical and unlike each other, and learned with each layer's own error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch.nn import functional

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError
from pipelines.core.gradients import no_grad
from pipelines.core.registry import setting
from pipelines.quantizers.calibration import Calibration
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer
from pipelines.quantizers.simulated.rounding import Annealing

__all__ = ["EdaDm", "EdaDmSettings", "choose_typical", "collect_features"]


@dataclasses.dataclass(frozen=True)
class EdaDmSettings:
    weight_bits: int = setting(4, "Bits of a weight.", low=2, high=8)
    activation_bits: int = setting(8, "Bits of a layer's inputs.", low=2, high=8)
    calls: int = setting(24, "Evaluations that are chosen for the calibration.", low=1, high=256)
    diversity: float = setting(
        1.0, "Weight of being unlike those chosen, beside being like all.", low=0.0, high=10.0, step=0.1
    )
    layer_weight: float = setting(
        1.0, "Weight of each layer's own error beside its block's.", low=0.0, high=10.0, step=0.1
    )
    iterations: int = setting(200, "Gradient steps of each block.", low=1, high=20_000)


@no_grad
def collect_features(
    network: torch.nn.Module, calibration: Calibration, cancelled: Callable[[], bool] = lambda: False
) -> torch.Tensor:
    """Return the middle block's output in each call, flattened and of unit length, (calls, features).

    Raises:
        MethodFitError: the network has no middle that could be found.
        Cancelled: the person stopped it.
    """
    blocks = getattr(network, "transformer_blocks", None)
    middle = getattr(network, "mid_block", None) or (blocks[len(blocks) // 2] if blocks else None)
    if middle is None:
        raise MethodFitError("EDA-DM does not fit this model: it has no middle block. Choose a U-Net or a transformer.")
    found: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        # A joint block gives the text first and the picture last.
        picture = output if isinstance(output, torch.Tensor) else output[-1]
        found.append(functional.normalize(picture.float().flatten(), dim=0))

    listener = middle.register_forward_hook(keep)
    try:
        for call in calibration.calls:
            if cancelled():
                raise Cancelled
            call.run(network)
    finally:
        listener.remove()
    sizes = {len(one) for one in found}
    return torch.stack([one[: min(sizes)] for one in found])


def choose_typical(features: torch.Tensor, count: int, diversity: float) -> list[int]:
    """Choose rows one after another by density plus the weighted diversity.

    Density is the mean cosine to all rows; diversity is one minus the largest cosine to a row that is chosen.

    Args:
        features: (n, d), of unit length.
        count: to choose, at most n.
        diversity: its weight; 0 takes the densest.

    Returns:
        Places, ascending.
    """
    cosine = features @ features.T
    density = cosine.mean(1)
    nearest = torch.full_like(density, -1.0)
    chosen: list[int] = []
    for _ in range(min(count, len(features))):
        score = density + diversity * (1 - nearest)
        score[chosen] = float("-inf")
        place = int(score.argmax())
        chosen.append(place)
        nearest = torch.maximum(nearest, cosine[place])
    return sorted(chosen)


class EdaDm(SimulatedQuantizer):
    """Rounds as Q-Diffusion does, on chosen calls, with the layers' errors in the reconstruction of each block.

    Source: Liu et al., EDA-DM, arXiv:2401.04585, sections 4.1 and 4.2.
    Differs: whole calls are chosen and not single samples, one after another; see `reconstruct`.
    """

    def __init__(self, settings: EdaDmSettings = EdaDmSettings()):
        self.settings = settings

    def plan(self, given: Given) -> Plan:
        chosen = self.settings
        given.progress("Choosing calls", 0, 1)
        places = choose_typical(
            collect_features(given.network, given.calibration, given.cancelled), chosen.calls, chosen.diversity
        )
        picked = Calibration(tuple(given.calibration.calls[place] for place in places))
        spec = LayerSpec(
            weights=f"int{chosen.weight_bits}",
            search=True,
            activations=ActivationSpec(f"int{chosen.activation_bits}", "static", search=True),
        )
        annealing = Annealing(iterations=chosen.iterations)
        return Plan(dict.fromkeys(given.layers, spec), picked, annealing, blocks=True, layer_weight=chosen.layer_weight)

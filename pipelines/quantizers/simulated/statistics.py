"""What is recorded of the layers' inputs before they are simulated: vectors, extremes and second moments."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from pipelines.core.gradients import no_grad
from pipelines.quantizers.calibration import Calibration, layer_rows, replay

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["LayerInputs", "collect_inputs", "split_by_memory"]

VECTORS = 512
"""Of a layer's inputs, so many are kept, evenly from all calls."""

MOST_BYTES = 2**30
"""Of inputs that are held at once; a network that has more is worked on in so many turns."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerInputs:
    """Holds what a layer was given.

    Attributes:
        rows: vectors that its weights are multiplied with, (N, K), float32; of a convolution these are patches.
        peaks: largest magnitude of each channel of all inputs, (C,).
    """

    rows: torch.Tensor
    peaks: torch.Tensor


@no_grad
def collect_inputs(
    network: torch.nn.Module,
    names: Sequence[str],
    calibration: Calibration,
    cancelled: Callable[[], bool] = lambda: False,
    vectors: int = VECTORS,
) -> dict[str, LayerInputs]:
    """Run the calls and record the layers' inputs; one that is never called has no entry.

    Raises:
        Cancelled: the person stopped it.
    """
    rows: dict[str, list[torch.Tensor]] = {}
    peaks: dict[str, torch.Tensor] = {}
    share = math.ceil(vectors / len(calibration.calls))

    def keep(name: str, module: torch.nn.Module, given: torch.Tensor) -> None:
        inputs = given.float()
        channels = 1 if isinstance(module, torch.nn.Conv2d) else -1
        peak = inputs.abs().movedim(channels, -1).flatten(0, -2).amax(0)
        peaks[name] = torch.maximum(peaks[name], peak) if name in peaks else peak
        found = layer_rows(module, inputs)
        # A stride that shares no factor with the picture's width would otherwise always meet the same column.
        places = torch.linspace(0, len(found) - 1, min(share, len(found)), device=found.device).long()
        rows.setdefault(name, []).append(found[places].clone())

    replay(network, names, calibration, keep, cancelled)
    return {name: LayerInputs(torch.cat(found), peaks[name]) for name, found in rows.items()}


def split_by_memory(layers: Mapping[str, WeightedLayer], vectors: int = VECTORS) -> Iterator[list[str]]:
    """Divide layers into lists whose recorded inputs fit into memory together."""
    names: list[str] = []
    total = 0
    for name, layer in layers.items():
        size = 4 * vectors * layer.weight[0].numel()
        if names and total + size > MOST_BYTES:
            yield names
            names, total = [], 0
        names.append(name)
        total += size
    if names:
        yield names

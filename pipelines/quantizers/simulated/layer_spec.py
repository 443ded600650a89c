"""How a layer is simulated, and the tensors that say so."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from pipelines.quantizers.simulated.activations import ActivationSpec

__all__ = ["SIMULATED", "LayerParts", "LayerSpec"]

UNROUNDED = ActivationSpec()
SIMULATED = "simulated: no claim of speed or memory"


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """Describes how one layer is simulated; as it is by default, it computes what the full-precision layer does.

    Attributes:
        weights: number format of the weights, "full" for none.
        scope: of a range of the weights: "tensor", "channel" (of outputs) or "group".
        group_size: weights of a group, with "group".
        search: ranges of the weights by the least error, and not by the extremes.
        activations: of the inputs.
        smoothing: exponent of the inputs' extremes in the channels' factors; negative for none, above 1 to search it.
        rank: of a branch in full precision beside the rounded weights.
        rotation: of the channels: "none", "hadamard", "outlier" or "auto", by what is best on the calibration.
        split: channels of the first half of a concatenated input, whose halves have ranges of their own; 0 for none.
        keep_first: the first token goes through the full-precision weights, unrounded.
        rounding: "nearest", "feedback" (GPTQ) or "adaround".
        tabled: the layer's outputs are taken as computed beforehand for so many steps, and so are exact; 0 for not.
    """

    weights: str = "full"
    scope: str = "channel"
    group_size: int = 64
    search: bool = False
    activations: ActivationSpec = UNROUNDED
    smoothing: float = -1.0
    rank: int = 0
    rotation: str = "none"
    split: int = 0
    keep_first: bool = False
    rounding: str = "nearest"
    tabled: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LayerSpec:
        """Read what `to_json` returned."""
        plain = values["activations"]
        lists = {name: tuple(plain.get(name, ())) for name in ("edges", "forms")}
        return cls(**{**values, "activations": ActivationSpec(**{**plain, **lists})})


@dataclasses.dataclass(frozen=True, eq=False)
class LayerParts:
    """Holds the tensors of a simulated layer.

    Attributes:
        weight: rounded, for inputs that are smoothed and rotated; of the layer's shape.
        bias: (outputs,), or None.
        factors: (C,), by which the inputs' channels are divided, or None.
        rotation: (C, C), orthogonal, applied to the inputs' channels after that, or None.
        down, up: the branch in full precision: weights (rank, ...) and (outputs, rank), or None.
        first: full-precision weights for the first token, or None.
        nominal_bits: that the rounded weights would take in memory, ranges and branch included.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    factors: torch.Tensor | None = None
    rotation: torch.Tensor | None = None
    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    first: torch.Tensor | None = None
    nominal_bits: float = 0.0

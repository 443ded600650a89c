"""A layer with weights as types see it."""

from __future__ import annotations

import torch

__all__ = ["WeightedLayer"]


class WeightedLayer(torch.nn.Module):
    """Describes a layer with weights as types see it; only annotations use it.

    Attributes:
        weight: (outputs, ...), or what a library keeps in its place.
        bias: (outputs,), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

"""Whether somebody takes derivatives of what is being computed, so that it must be computed in a way that has them."""

from __future__ import annotations

import torch

__all__ = ["is_differentiated"]


def is_differentiated(*tensors: torch.Tensor) -> bool:
    """Say whether one of the tensors has a gradient that is recorded, or a tangent of forward-mode derivatives."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    return any(_has_tangent(tensor) for tensor in tensors)


def _has_tangent(tensor: torch.Tensor) -> bool:
    return torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]

"""Tangential damping of the unconditional prediction (TCFG)."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.prediction import Prediction
from pipelines.core.registry import setting
from pipelines.guidance.two_branch import TwoBranchGuidance, guide, inner_product

__all__ = ["Tangential", "TangentialSettings", "project_on_main_direction"]


@dataclasses.dataclass(frozen=True)
class TangentialSettings:
    guidance_scale: float = setting(
        4.0, "How strongly the picture follows the prompt; 1 switches guidance off.", low=0, high=30, step=0.1
    )
    damping: float = setting(
        1.0, "How much of the part that both predictions do not share is taken away; 0 for none.", low=0, high=1
    )


def project_on_main_direction(negative: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Project U on the first right singular vector of the matrix whose two rows are C and U.

    Args: negative, positive: (B, ...), U and C.
    Returns: (B, ...): b (a C + b U) with (a, b) the unit eigenvector of the rows' Gram matrix of larger eigenvalue.
    """
    cc, cu, uu = (inner_product(*pair) for pair in ((positive, positive), (positive, negative), (negative, negative)))
    # half the angle of the main axis of [[cc, cu], [cu, uu]]
    angle = 0.5 * torch.atan2(2 * cu, cc - uu)
    a, b = angle.cos(), angle.sin()
    return (b * (a * positive + b * negative)).to(negative.dtype)


class Tangential(TwoBranchGuidance):
    """Guides away from an unconditional prediction without what points off the common direction of both.

    With damping 0 it is classifier-free guidance.

    Source: Kwon et al., TCFG: Tangential damping classifier-free guidance, arXiv:2503.18137, section 3.2, by singular
        value decomposition.
    Differs: the authors always project wholly; the damping is ours.
    """

    def __init__(self, settings: TangentialSettings = TangentialSettings()):
        super().__init__(settings.guidance_scale)
        self.damping = settings.damping

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        low = negative.raw
        if self.damping:
            low = low + self.damping * (project_on_main_direction(low, positive.raw) - low)
        return guide(low, positive.raw, self.guidance_scale)

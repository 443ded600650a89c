"""How sharp a picture is: the variance of its Laplacian."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipelines.core.registry import NoSettings
from pipelines.rewards.pixels import PixelReward

__all__ = ["Sharpness"]

_LUMINANCE = (0.299, 0.587, 0.114)
_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


class Sharpness(PixelReward):
    """The variance of the Laplacian of the luminance, in units of 8-bit levels squared.

    Source: Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000.
    """

    def __init__(self, settings: NoSettings):
        pass

    def score(self, images: torch.Tensor) -> torch.Tensor:
        weights = images.new_tensor(_LUMINANCE)[None, :, None, None]
        luminance = 255 * (images * weights).sum(dim=1, keepdim=True)
        edges = F.conv2d(luminance, images.new_tensor(_LAPLACIAN)[None, None])
        return edges.flatten(1).var(dim=1, unbiased=False).float().cpu()

"""Pictures as the small networks that judge them take them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipelines.core.errors import SettingsError

__all__ = ["fit_pictures"]


def fit_pictures(images: torch.Tensor, network: torch.nn.Module, side: int, judge: str) -> torch.Tensor:
    """Bring pictures to a network's device, dtype and size; differentiable with respect to the pictures.

    Args:
        images: (B, 3, H, W) in [0, 1], any height and width.
        network: that takes them.
        side: the pixels it was trained at.
        judge: begins the error's sentence.

    Returns:
        (B, 3, side, side), bilinear with antialiasing where the size was another.

    Raises:
        SettingsError: the shape is another one.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise SettingsError(f"{judge} takes pictures of shape (B, 3, H, W), not {tuple(images.shape)}.")
    weight = next(network.parameters())
    images = images.to(weight.device, weight.dtype)
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)

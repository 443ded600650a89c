"""Tiny decoders, which paint previews."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

__all__ = ["decode_tiny"]


def decode_tiny(tiny: AutoencoderTiny, latents: torch.Tensor) -> torch.Tensor:
    """Decode scaled latents (B, C, h, w) into pictures (B, 3, H, W) in about [-1, 1], of the decoder's own type.

    One whose output has 3 k^2 channels makes the k x k pixels of each of its places as channels (a sub-pixel
    convolution): `torch.pixel_shuffle` lays them out.

    Source: Shi et al., Real-time single image and video super-resolution using an efficient sub-pixel convolutional
        neural network, arXiv:1609.05158, section 3.1.
    """
    images = tiny.decode(latents.to(tiny.device, tiny.dtype), return_dict=False)[0]
    side = math.isqrt(images.shape[1] // 3)
    return torch.pixel_shuffle(images, side) if images.shape[1] == 3 * side * side and side > 1 else images

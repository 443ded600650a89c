"""Decoding in another dtype than the VAE's own, with gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pipelines.families.pretrained import Autoencoder


__all__ = ["decode_in_dtype_of"]


class _Decoder(torch.nn.Module):
    """A VAE's decoding as a module's forward, which other weights can stand in for."""

    def __init__(self, vae: Autoencoder):
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = self.vae.decode(latents, return_dict=False)[0]
        return images


def decode_in_dtype_of(vae: Autoencoder, latents: torch.Tensor) -> torch.Tensor:
    """Decode by a copy of the weights in the latents' dtype, through which gradients flow; the VAE keeps its own.

    Args:
        vae: the model's.
        latents: (B, C, h, w), as the VAE reads them.

    Returns:
        (B, 3, H, W), in about [-1, 1].
    """
    decoder = _Decoder(vae)
    weights = {
        name: tensor.detach().to(latents.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in decoder.state_dict().items()
    }
    images: torch.Tensor = torch.func.functional_call(decoder, weights, (latents,))
    return images

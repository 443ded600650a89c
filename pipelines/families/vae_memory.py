"""What a VAE does where memory runs out or numbers overflow: it works in tiles, or in float32, and says so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pipelines.core.devices import is_out_of_memory, release_unused_memory

__all__ = ["applied_tiling", "call_within_memory"]

_SMALLEST_TILE = 32
"""Latent pixels of a tile's side below which the seams would show more than the picture."""

_TILE_SETTINGS = ("use_tiling", "tile_latent_min_size", "tile_sample_min_size", "tile_overlap_factor")

_TINY_FACTOR = "spatial_scale_factor"
"""Of an AutoencoderTiny: by how much its tiles grow, which diffusers takes from the number of colors."""


@contextlib.contextmanager
def applied_tiling(vae: Any, side: int, scale: int) -> Iterator[None]:
    """Let a VAE of diffusers work in overlapping tiles while the context lasts.

    Args:
        vae: an AutoencoderKL or an AutoencoderTiny, whose tiles are squares.
        side: of a tile in latent pixels.
        scale: pixels to a latent pixel.
    """
    before = {name: getattr(vae, name) for name in (*_TILE_SETTINGS, _TINY_FACTOR) if hasattr(vae, name)}
    try:
        vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size = True, side, side * scale
        if _TINY_FACTOR in before:
            setattr(vae, _TINY_FACTOR, scale)
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


def call_within_memory(
    call: Callable[[], torch.Tensor], vae: Any, sides: tuple[int, int], scale: int, device: torch.device
) -> tuple[torch.Tensor, int]:
    """Encode or decode whole, and in ever smaller tiles where the device's memory does not hold that.

    Args:
        call: of the VAE.
        vae: which it calls.
        sides: height and width of the latents.
        scale: pixels to a latent pixel.
        device: of the VAE.

    Returns:
        What the call gives, and the side of the tiles in latent pixels, 0 for none.

    Raises:
        RuntimeError: not even the smallest tiles fit, or the VAE knows no tiles; `is_out_of_memory` says so of it.
    """
    side = 0
    while True:
        try:
            with applied_tiling(vae, side, scale) if side else contextlib.nullcontext():
                return call(), side
        except RuntimeError as error:
            side = (side or max(sides)) // 2
            knows_tiles = all(hasattr(vae, name) for name in _TILE_SETTINGS)
            if not is_out_of_memory(error) or not knows_tiles or side < min(_SMALLEST_TILE, max(sides) // 2):
                raise
        # Outside the handler, whose traceback keeps the tensors of the failed call.
        release_unused_memory(device)

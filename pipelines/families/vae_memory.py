"""What a VAE does where memory runs out or numbers overflow: it works in tiles, or in float32, and says so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pipelines.core.devices import is_out_of_memory, read_free_memory, release_unused_memory

__all__ = ["applied_tiling", "call_within_memory", "estimate_vae_memory"]

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


def estimate_vae_memory(vae: Any, decodes: bool) -> int:
    """Estimate the bytes beside the weights that a pixel takes at the peak of a call; 0 where nothing is known.

    The peaks of AutoencoderKL, with two layers a block as the published ones have, on the tests' stand-in, which counts
    tensors, are these: in decoding three tensors of the channels that enter the last block, in encoding five of the
    first block's. A kernel's own scratch memory is not in it.
    """
    channels = getattr(vae, "config", {}).get("block_out_channels")
    if type(vae).__name__ != "AutoencoderKL" or not channels:
        return 0
    numbers = 3 * channels[min(1, len(channels) - 1)] if decodes else 5 * channels[0]
    return int(numbers * vae.dtype.itemsize)


def _choose_tile_side(sides: tuple[int, int], scale: int, each: int, device: torch.device) -> int:
    """The side of the largest tiles, halved again and again, whose estimate free memory holds; 0 for the whole."""
    free = read_free_memory(device) if each else None
    if free is None or sides[0] * sides[1] * scale**2 * each <= free:
        return 0
    side, smallest = max(sides) // 2, min(_SMALLEST_TILE, max(sides) // 2)
    while side // 2 >= smallest and side**2 * scale**2 * each > free:
        side //= 2
    return side


def call_within_memory(
    call: Callable[[], torch.Tensor],
    vae: object,
    sides: tuple[int, int],
    scale: int,
    device: torch.device,
    each: int = 0,
) -> tuple[torch.Tensor, int]:
    """Encode or decode whole; in tiles where free memory would not hold that, and in smaller ones where it did not.

    Args:
        call: of the VAE.
        vae: which it calls.
        sides: height and width of the latents.
        scale: pixels to a latent pixel.
        device: of the VAE.
        each: bytes that a pixel takes, by `estimate_vae_memory`; 0 begins with the whole.

    Returns:
        What the call gives, and the side of the tiles in latent pixels, 0 for none.

    Raises:
        RuntimeError: not even the smallest tiles fit, or the VAE knows no tiles; `is_out_of_memory` says so of it.
    """
    knows_tiles = all(hasattr(vae, name) for name in _TILE_SETTINGS)
    side = _choose_tile_side(sides, scale, each, device) if knows_tiles else 0
    while True:
        try:
            with applied_tiling(vae, side, scale) if side else contextlib.nullcontext():
                return call(), side
        except RuntimeError as error:
            side = (side or max(sides)) // 2
            if not is_out_of_memory(error) or not knows_tiles or side < min(_SMALLEST_TILE, max(sides) // 2):
                raise
        # Outside the handler, whose traceback keeps the tensors of the failed call.
        release_unused_memory(device)

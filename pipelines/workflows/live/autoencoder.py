"""The VAE in half of its numbers' digits, where the processor computes with them: it is most of a frame's time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from pipelines.families.base import Family
from pipelines.weights.patching import in_dtype

__all__ = ["computes_bfloat16", "quick_autoencoder"]


def computes_bfloat16() -> bool:
    """Say whether this computer's processor multiplies bfloat16; one that does not is slower with it than without."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextlib.contextmanager
def quick_autoencoder(family: Family) -> Iterator[bool]:
    """Have a model's VAE compute in bfloat16 while the context lasts, where that is quicker.

    Only a float32 VAE on a processor that multiplies bfloat16 is changed; elsewhere the loader has chosen already.

    Args:
        family: the model, which is unchanged afterwards bit for bit.

    Yields:
        Whether it was changed.
    """
    vae = family.components.get("vae")
    on_cpu = family.device.type == "cpu" and computes_bfloat16()
    if on_cpu and isinstance(vae, torch.nn.Module) and next(vae.parameters()).dtype == torch.float32:
        with in_dtype(vae, torch.bfloat16):
            yield True
        return
    yield False

"""The networks of diffusers as types see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Autoencoder", "PretrainedModule"]


class PretrainedModule(torch.nn.Module):
    """Describes a network of diffusers as types see it; only annotations use it.

    Attributes:
        config: its configuration, attributes and a mapping at once.
        dtype: of its weights.
    """

    config: Any
    dtype: torch.dtype


class Autoencoder(PretrainedModule):
    """Describes a VAE of diffusers as types see it; only annotations use it.

    Attributes:
        encode: pictures (B, 3, H, W) in [-1, 1] to an output with a distribution or with latents.
        decode: latents (B, C, h, w) to an output whose first item is pictures.
    """

    encode: Callable[..., Any]
    decode: Callable[..., Any]

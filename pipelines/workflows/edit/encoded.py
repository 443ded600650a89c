"""Pictures that were encoded for an edit, remembered for the next: their latents, and what the VAE makes of those."""

from __future__ import annotations

import dataclasses
import hashlib
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from pipelines.families.base import Family
from pipelines.families.latent_model import LatentModel
from pipelines.requests.encoding import decode

__all__ = ["EncodedPicture", "EncodedPictures", "to_tensor"]

_MOST = 8


@dataclasses.dataclass
class EncodedPicture:
    """Describes a picture in a model's latents.

    Attributes:
        latents: (1, C, h, w); nobody changes them.
        decoded: (H, W, 3) uint8, what the VAE makes of the latents, once somebody asked for it.
    """

    latents: torch.Tensor
    decoded: np.ndarray | None = None

    def decode(self, family: Family) -> np.ndarray:
        """Return what the VAE alone makes of the picture, decoded at the first call."""
        if self.decoded is None:
            self.decoded = decode(family, self.latents)[0]
        return self.decoded


class EncodedPictures:
    """Keeps the last pictures of each VAE; they go when the VAE goes.

    Each VAE gives one picture's latents and nothing else, so it does not matter whose picture it was.
    """

    def __init__(self) -> None:
        self._by_vae: weakref.WeakKeyDictionary[torch.nn.Module, OrderedDict[bytes, EncodedPicture]] = (
            weakref.WeakKeyDictionary()
        )

    def encode(self, family: LatentModel, pixels: np.ndarray) -> EncodedPicture:
        """Encode a picture, or find it again.

        Args:
            family: the model.
            pixels: (H, W, 3) uint8.
        """
        vae: Any = family.components["vae"]
        kept = self._by_vae.setdefault(vae, OrderedDict())
        shape = f"{pixels.shape} {vae.dtype} {family.device}"
        key = hashlib.sha256(np.ascontiguousarray(pixels).tobytes() + shape.encode()).digest()
        if key not in kept:
            kept[key] = EncodedPicture(family.encode_images(to_tensor(pixels)))
        kept.move_to_end(key)
        while len(kept) > _MOST:
            kept.popitem(last=False)
        return kept[key]


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Return (1, 3, H, W), 0 to 1, of (H, W, 3) uint8."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255

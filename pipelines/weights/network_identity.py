"""Whose weights a network has: what was fitted to one network is not for another of the same name."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["network_identity"]


def network_identity(family: object) -> str:
    """Name the denoising network's weights by their first values and shapes, without reading them all.

    Weights kept in half precision have one name whether they are loaded as float16 or as float32, since the values
    are the same. Ask before LoRAs are applied: they change the values.

    Args:
        family: a loaded model; one without a network of its own has a name that no other has.
    """
    network = getattr(family, "network", None)
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()) if isinstance(network, torch.nn.Module) else ():
        values = tensor.detach().flatten()[:64].float().cpu().numpy().tobytes()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + values)
    return digest.hexdigest()[:16]

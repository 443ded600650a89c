"""The guidance scale as an input of a distilled network."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipelines.core.prediction import Conditioning

__all__ = ["embed_scale"]


def embed_scale(conditionings: Mapping[str, Conditioning], guidance_scale: float) -> dict[str, Conditioning]:
    """Return conditionings with the guidance scale as the tensor "guidance", (B,), float32."""
    scaled = {}
    for name, conditioning in conditionings.items():
        like = conditioning.tensors["prompt_embeds"]
        scale = torch.full((len(like),), float(guidance_scale), device=like.device)
        scaled[name] = Conditioning({**conditioning.tensors, "guidance": scale})
    return scaled

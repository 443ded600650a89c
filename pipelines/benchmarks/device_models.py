"""Models with the shapes of the published ones, or tiny ones of the same kinds; random weights, no text encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["SHAPES", "Shape"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """A kind of model.

    Attributes:
        network: makes the denoising network; "tiny" asks for one of a few thousand weights.
        family: key of the family.
        side: pixels of its pictures.
        channels: of its latents.
        embeds: names to shapes of what the network takes beside latents, without the batch, by (tiny or not).
    """

    network: Callable[[bool], torch.nn.Module]
    family: str
    side: int
    channels: int
    embeds: Callable[[bool], Mapping[str, tuple[int, ...]]]


def _unet(tiny: bool, xl: bool) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = {"sample_size": 128 if xl else 64, "cross_attention_dim": 2048 if xl else 768}
    if xl:
        settings |= {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
    if tiny:
        count = 3 if xl else 4
        settings |= {"block_out_channels": (32,) * count, "layers_per_block": 1, "attention_head_dim": 8}
        settings |= {"transformer_layers_per_block": 1, "cross_attention_dim": 32, "sample_size": 8}
        settings |= {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 56} if xl else {}
    return UNet2DConditionModel(**settings)


def _sd3(tiny: bool) -> torch.nn.Module:
    from diffusers import SD3Transformer2DModel

    small = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "caption_projection_dim": 32}
    small |= {"joint_attention_dim": 32, "pooled_projection_dim": 32, "sample_size": 8, "pos_embed_max_size": 16}
    large = {"num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64, "caption_projection_dim": 1536}
    large |= {"joint_attention_dim": 4096, "pooled_projection_dim": 2048, "sample_size": 128, "pos_embed_max_size": 192}
    return SD3Transformer2DModel(in_channels=16, out_channels=16, patch_size=2, **(small if tiny else large))


def _flux(tiny: bool) -> torch.nn.Module:
    from diffusers import FluxTransformer2DModel

    small: dict[str, Any] = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2}
    small |= {
        "attention_head_dim": 16,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 6, 6),
    }
    return FluxTransformer2DModel(guidance_embeds=True, **(small if tiny else {}))


def _width(tiny: bool, large: int) -> int:
    return 32 if tiny else large


SHAPES = {
    "sd15": Shape(
        lambda tiny: _unet(tiny, False), "sd", 512, 4, lambda tiny: {"prompt_embeds": (77, _width(tiny, 768))}
    ),
    "sdxl": Shape(
        lambda tiny: _unet(tiny, True),
        "sdxl",
        1024,
        4,
        lambda tiny: {
            "prompt_embeds": (77, _width(tiny, 2048)),
            "pooled_prompt_embeds": (_width(tiny, 1280),),
            "time_ids": (6,),
        },
    ),
    "sd3": Shape(
        _sd3,
        "sd3",
        1024,
        16,
        lambda tiny: {"prompt_embeds": (333, _width(tiny, 4096)), "pooled_prompt_embeds": (_width(tiny, 2048),)},
    ),
    "flux": Shape(
        _flux,
        "flux",
        1024,
        16,
        lambda tiny: {"prompt_embeds": (512, _width(tiny, 4096)), "pooled_prompt_embeds": (_width(tiny, 768),)},
    ),
}
"""Name to kind."""

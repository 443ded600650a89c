"""What ControlNets of each family are given, and how what they say reaches the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch

__all__ = [
    "CONTROL",
    "CONTROL_SCALE",
    "ControlledFamily",
    "flux_control_inputs",
    "sd3_control_inputs",
    "unet_control_inputs",
]

CONTROL, CONTROL_SCALE = "control", "control_scale"
"""Names of the tensors of a conditioning: what the ControlNet reads, (B, ...), and the factor on what it says, (B,)."""


@runtime_checkable
class ControlledFamily(Protocol):
    """Describes a family that has ControlNets."""

    def prepare_control(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn a map (B, 3, H, W) in [0, 1] into what the ControlNet reads."""


def unet_control_inputs(
    controlnet: Any,
    latents: torch.Tensor,
    times: torch.Tensor,
    tensors: Mapping[str, torch.Tensor],
    added: Mapping[str, torch.Tensor] | None,
) -> dict[str, Any]:
    """Run a ControlNet of a UNet; returns the UNet's further arguments, none where there is no map.

    Args:
        controlnet: a ControlNetModel.
        latents: (R, C, h, w), as the UNet takes them.
        times: (R,), likewise.
        tensors: of the conditioning.
        added: the UNet's further conditions.
    """
    if CONTROL not in tensors:
        return {}
    dtype = latents.dtype
    down, middle = controlnet(
        latents,
        times,
        encoder_hidden_states=tensors["prompt_embeds"].to(dtype),
        controlnet_cond=tensors[CONTROL].to(dtype),
        added_cond_kwargs=added,
        return_dict=False,
    )
    scale = tensors[CONTROL_SCALE].to(dtype)[:, None, None, None]
    return {
        "down_block_additional_residuals": [one * scale for one in down],
        "mid_block_additional_residual": middle * scale,
    }


def sd3_control_inputs(
    controlnet: Any,
    network: Any,
    latents: torch.Tensor,
    times: torch.Tensor,
    tensors: Mapping[str, torch.Tensor],
) -> dict[str, Any]:
    """Run a ControlNet of Stable Diffusion 3; returns the transformer's further arguments.

    Args:
        controlnet: an SD3ControlNetModel.
        network: the transformer, whose embedding of positions those of SD3.5 large use.
        latents, times, tensors: as of `unet_control_inputs`.
    """
    if CONTROL not in tensors:
        return {}
    config = controlnet.config
    dtype = latents.dtype
    pooled, embeds = tensors["pooled_prompt_embeds"].to(dtype), tensors["prompt_embeds"].to(dtype)
    (blocks,) = controlnet(
        hidden_states=latents if config.use_pos_embed else network.pos_embed(latents),
        timestep=times,
        encoder_hidden_states=None if config.joint_attention_dim is None else embeds,
        pooled_projections=torch.zeros_like(pooled) if config.force_zeros_for_pooled_projection else pooled,
        controlnet_cond=tensors[CONTROL].to(dtype),
        return_dict=False,
    )
    scale = tensors[CONTROL_SCALE].to(dtype)[:, None, None]
    return {"block_controlnet_hidden_states": [one * scale for one in blocks]}


def flux_control_inputs(
    controlnet: Any,
    packed: torch.Tensor,
    control: torch.Tensor,
    tensors: Mapping[str, torch.Tensor],
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    """Run a ControlNet of FLUX.1; returns the transformer's further arguments.

    Args:
        controlnet: a FluxControlNetModel.
        packed: latents (R, L, 4 C).
        control: what it reads: packed latents, or pixels for one with a hint block.
        tensors: of the conditioning.
        inputs: the transformer's arguments besides the latents.
    """
    config = controlnet.config
    double, single = controlnet(
        hidden_states=packed,
        controlnet_cond=control.to(packed.dtype),
        **{**inputs, "guidance": inputs["guidance"] if config.guidance_embeds else None},
    )
    scale = tensors[CONTROL_SCALE].to(packed.dtype)[:, None, None]
    return {
        "controlnet_block_samples": None if double is None else [one * scale for one in double],
        "controlnet_single_block_samples": None if single is None else [one * scale for one in single],
        "controlnet_blocks_repeat": controlnet.input_hint_block is not None,
    }

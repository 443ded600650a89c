"""What the tests of lora_kinds share."""

from __future__ import annotations

import torch

OUT, IN, RANK = 12, 8, 2


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def cayley(blocks):
    """Block-diagonal rotation, by the textbook: (1 + Q)(1 - Q)^-1 with Q skew."""
    skew = blocks - blocks.transpose(1, 2)
    eye = torch.eye(blocks.shape[1], dtype=blocks.dtype)
    return torch.block_diag(*((eye + one) @ torch.linalg.inv(eye - one) for one in skew))


QKV = [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"]
ADDED = [f"transformer_blocks.0.attn.add_{part}_proj" for part in "qkv"]
SINGLE = [f"single_transformer_blocks.0.attn.to_{part}" for part in "qkv"]
SPELLINGS = {
    "X-Labs, image": ("flux", "double_blocks.0.processor.qkv_lora1.{}.weight", ("down", "up"), QKV),
    "X-Labs, text": ("flux", "double_blocks.0.processor.qkv_lora2.{}.weight", ("down", "up"), ADDED),
    "X-Labs, single": ("flux", "single_blocks.0.processor.qkv_lora.{}.weight", ("down", "up"), SINGLE),
    "BFL": ("flux", "double_blocks.0.img_attn.qkv.lora_{}.weight", ("A", "B"), QKV),
    "ComfyUI, FLUX": ("flux", "diffusion_model.double_blocks.0.txt_attn.qkv.lora_{}.weight", ("A", "B"), ADDED),
    "ai-toolkit": ("flux", "transformer.single_transformer_blocks.0.attn.to_q.lora_{}.weight", ("A", "B"), SINGLE[:1]),
    "kohya, final layer": ("flux", "lora_unet_final_layer_linear.lora_{}.weight", ("down", "up"), ["proj_out"]),
    "kohya, img_in": ("flux", "lora_unet_img_in.lora_{}.weight", ("down", "up"), ["x_embedder"]),
    "kohya, guidance": (
        "flux",
        "lora_unet_guidance_in_in_layer.lora_{}.weight",
        ("down", "up"),
        ["time_text_embed.guidance_embedder.linear_1"],
    ),
    "SD3, kohya": ("sd3", "lora_unet_joint_blocks_0_context_block_attn_qkv.lora_{}.weight", ("down", "up"), ADDED),
    "SD3, ComfyUI": ("sd3", "diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_{}.weight", ("A", "B"), QKV),
    "SD3, diffusers": ("sd3", "transformer.transformer_blocks.0.attn.to_q.lora_{}.weight", ("A", "B"), QKV[:1]),
    "OneTrainer, OMI": ("flux", "transformer.double_blocks.0.img_attn.qkv.1.lora_{}.weight", ("down", "up"), QKV[1:2]),
    "OneTrainer, OMI, single": (
        "flux",
        "transformer.single_blocks.0.linear1.3.lora_{}.weight",
        ("down", "up"),
        ["single_transformer_blocks.0.proj_mlp"],
    ),
    "OneTrainer, OMI, SD3": (
        "sd3",
        "transformer.joint_blocks.0.context_block.attn.qkv.2.lora_{}.weight",
        ("down", "up"),
        ADDED[2:],
    ),
    "PEFT, an adapter with a name": (
        "flux",
        "transformer.transformer_blocks.0.attn.to_q.lora_{}.my-style.weight",
        ("A", "B"),
        QKV[:1],
    ),
    "PEFT, its wrapper's name": (
        "sd3",
        "transformer.base_model.model.transformer_blocks.0.attn.to_q.lora_{}.weight",
        ("A", "B"),
        QKV[:1],
    ),
    "OneTrainer": ("flux", "lora_transformer_transformer_blocks_0_attn_to_q.lora_{}.weight", ("down", "up"), QKV[:1]),
}

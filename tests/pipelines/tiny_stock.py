"""Tiny random pipelines that no family here rebuilds, without text encoders: a prompt becomes fixed random numbers."""

from __future__ import annotations

import zlib

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)

TOKENS = 5


def _embedded(prompt, width: int) -> torch.Tensor:
    """(1, 5, width), another for each prompt."""
    text = prompt if isinstance(prompt, str) else prompt[0]
    return torch.randn((1, TOKENS, width), generator=torch.Generator().manual_seed(zlib.crc32(text.encode())))


class SanaSprintWithoutText(SanaSprintPipeline):
    """The pipeline itself, but for its text encoder."""

    def encode_prompt(self, prompt=None, num_images_per_prompt=1, **_):
        return _embedded(prompt, 8).repeat(num_images_per_prompt, 1, 1), torch.ones(num_images_per_prompt, TOKENS)


class QwenImageWithoutText(QwenImagePipeline):
    """The pipeline itself, but for its text encoder."""

    def encode_prompt(self, prompt=None, num_images_per_prompt=1, **_):
        return _embedded(prompt, 16).repeat(num_images_per_prompt, 1, 1), torch.ones(
            num_images_per_prompt, TOKENS
        ).long()


def tiny_sana_sprint() -> SanaSprintPipeline:
    """32 latent pixels a side, which it takes for 1024 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=8,
            sample_size=32,
            qk_norm="rms_norm_across_heads",
            guidance_embeds=True,
        )
        vae = AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock",) * 6,
            decoder_block_types=("ResBlock",) * 6,
            encoder_block_out_channels=(4,) * 6,
            decoder_block_out_channels=(4,) * 6,
            encoder_qkv_multiscales=((),) * 6,
            decoder_qkv_multiscales=((),) * 6,
            encoder_layers_per_block=(1,) * 6,
            decoder_layers_per_block=(1,) * 6,
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        )
    pipe = SanaSprintWithoutText(
        tokenizer=None, text_encoder=None, vae=vae.eval(), transformer=transformer.eval(), scheduler=SCMScheduler()
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_qwen(guidance_embeds: bool = False) -> QwenImagePipeline:
    """32 x 32 pixels, latents (4, 8, 8)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=3,
            joint_attention_dim=16,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(8, 4, 4),
        )
        vae = AutoencoderKLQwenImage(
            base_dim=24,
            z_dim=4,
            dim_mult=[1, 2, 4],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
    pipe = QwenImageWithoutText(
        tokenizer=None,
        text_encoder=None,
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe

"""Tiny video pipelines of diffusers' own classes with random weights, made without any network."""

from __future__ import annotations

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKLLTXVideo,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MotionAdapter,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.pipelines.tiny_models import (
    _betas,
    _clip_config,
    _finished,
    _t5_encoder,
    _unet,
    _vae,
    clip_tokenizer,
    t5_tokenizer,
)

__all__ = ["TINY_VIDEOS", "tiny_animatediff", "tiny_ltx", "tiny_svd", "tiny_wan"]


def tiny_animatediff(folder=None, seed: int = 0) -> AnimateDiffPipeline:
    """Stable Diffusion's tiny model with a motion adapter of at most 32 frames, 32 x 32 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = clip_tokenizer()
        adapter = MotionAdapter(
            block_out_channels=(8, 16),
            motion_layers_per_block=1,
            motion_mid_block_layers_per_block=1,
            motion_num_attention_heads=2,
            motion_norm_num_groups=4,
            motion_max_seq_length=32,
        )
        pipe = AnimateDiffPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_clip_config(tokenizer)),
            tokenizer=tokenizer,
            unet=_unet(16),
            motion_adapter=adapter,
            scheduler=DDIMScheduler(**_betas(), clip_sample=False, set_alpha_to_one=False),
        )
        for name, part in pipe.unet.named_parameters():
            if "proj_out" in name and "motion" in name:  # they begin at zero, which would hide a mistake
                torch.nn.init.normal_(part, std=0.1)
    return _finished(pipe, folder)


def tiny_svd(folder=None, seed: int = 0) -> StableVideoDiffusionPipeline:
    """Stable Video Diffusion: latents of 4 channels, an eighth of the side."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNetSpatioTemporalConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=4,
            block_out_channels=(32, 32),
            num_attention_heads=(2, 2),
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            layers_per_block=1,
            cross_attention_dim=16,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24,
            num_frames=4,
        )
        vae = AutoencoderKLTemporalDecoder(
            block_out_channels=(32,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
        )
        vision = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=16,
                projection_dim=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=224,
                patch_size=56,
                intermediate_size=32,
            )
        )
        pipe = StableVideoDiffusionPipeline(
            vae=vae,
            image_encoder=vision,
            unet=unet,
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                prediction_type="v_prediction",
                interpolation_type="linear",
                sigma_min=0.002,
                sigma_max=700.0,
                steps_offset=1,
                timestep_spacing="leading",
                timestep_type="continuous",
                use_karras_sigmas=True,
            ),
            feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
        )
    return _finished(pipe, folder)


def tiny_wan(folder=None, seed: int = 0) -> WanPipeline:
    """Wan 2.1: latents of 16 channels, an eighth of the side and a quarter of the frames."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        )
        transformer = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=16,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        )
        pipe = WanPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=_t5_encoder(16),
            vae=vae,
            transformer=transformer,
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
            ),
        )
    return _finished(pipe, folder)


def tiny_ltx(folder=None, seed: int = 0) -> LTXPipeline:
    """LTX-Video: latents of 8 channels, packed, 1/32 of the side and 1/8 of the frames."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLLTXVideo(
            in_channels=3,
            out_channels=3,
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, True, False),
            decoder_spatio_temporal_scaling=(True, True, True, False),
            decoder_inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_factor=(1,) * 4,
            timestep_conditioning=False,
            patch_size=4,
            patch_size_t=1,
            encoder_causal=True,
            decoder_causal=False,
        )
        transformer = LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            patch_size=1,
            patch_size_t=1,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            num_layers=1,
            caption_channels=16,
        )
        pipe = LTXPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=vae,
            text_encoder=_t5_encoder(16),
            tokenizer=t5_tokenizer(),
            transformer=transformer,
        )
    return _finished(pipe, folder)


TINY_VIDEOS = {"animatediff": tiny_animatediff, "svd": tiny_svd, "wan": tiny_wan, "ltx": tiny_ltx}

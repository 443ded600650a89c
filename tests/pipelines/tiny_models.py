"""Tiny stock diffusers pipelines with random weights from a fixed seed, made without any network.

They have the real classes, working tokenizers whose ids are valid, and some ten thousand parameters, so a
test can compare our loop with theirs in a fraction of a second.
"""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WORDS = (
    "a",
    "red",
    "fox",
    "blue",
    "sky",
    "photo",
    "of",
    "the",
    "cat",
    "blurry",
    "with",
    "dark",
    "moon",
    "green",
    "sea",
)
"""Words that are one token; any other text falls apart into bytes (CLIP) or letters (T5)."""

CLIP_LENGTH = 20
"""The tokenizers' model_max_length: 18 words and the two marks."""


def clip_tokenizer() -> CLIPTokenizer:
    """A byte-level CLIP tokenizer of about 560 tokens; the last two are the marks of begin and end."""
    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
            tokens.append(parts[0])
    tokens = [*list(dict.fromkeys(tokens)), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=list(dict.fromkeys(merges)), model_max_length=CLIP_LENGTH)


def t5_tokenizer() -> T5Tokenizer:
    """A unigram T5 tokenizer: letters, figures, a few signs and the words of `WORDS`."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?()[]{}|'\"-_/\\"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [("▁" + word, -3.0) for word in WORDS]
    pieces += [(letter, -8.0) for letter in letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def _clip_config(tokenizer: CLIPTokenizer, width: int = 16) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
        initializer_factor=5.0,
    )


def _t5_encoder(width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(t5_tokenizer()), d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2)
    )


def _vae(channels: int = 4, **config) -> AutoencoderKL:
    """A VAE that shrinks each side by four."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=channels,
        block_out_channels=(4, 8, 8),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=2,
        mid_block_add_attention=False,
        sample_size=32,
        **config,
    )


def _unet(cross_attention_dim: int, **config) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
        cross_attention_dim=cross_attention_dim,
        **config,
    )


def _betas(**config) -> dict:
    return {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, **config}


def _finished(pipe, folder):
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    if folder is not None:
        pipe.save_pretrained(folder, safe_serialization=True)
    return pipe


TINY_ADAPTER = {
    "channels": [8, 16],
    "downscale_factor": 8,
    "num_res_blocks": 1,
    "adapter_type": "full_adapter_xl",
}
"""The configuration of a T2I-Adapter for `tiny_sd` and `tiny_sdxl`."""


def tiny_sd(folder=None, prediction_type: str = "epsilon", seed: int = 0, **unet) -> StableDiffusionPipeline:
    """A Stable Diffusion 1 pipeline, 32 x 32 pixels, latents (4, 8, 8).

    Args:
        folder: where to save it in the stock format too; None does not save.
        prediction_type: "epsilon" or "v_prediction" (as Stable Diffusion 2.1).
        seed: of the weights.
        unet: further settings of the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = clip_tokenizer()
        pipe = StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_clip_config(tokenizer)),
            tokenizer=tokenizer,
            unet=_unet(16, **unet),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            scheduler=DDIMScheduler(
                **_betas(), clip_sample=False, set_alpha_to_one=False, prediction_type=prediction_type
            ),
        )
    return _finished(pipe, folder)


def tiny_sdxl(folder=None, seed: int = 0, force_zeros: bool = True) -> StableDiffusionXLPipeline:
    """An SDXL pipeline, 32 x 32 pixels, latents (4, 8, 8), two text encoders.

    Args:
        folder: where to save it; None does not save.
        seed: of the weights.
        force_zeros: the pipeline's force_zeros_for_empty_prompt.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = clip_tokenizer()
        pipe = StableDiffusionXLPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_clip_config(tokenizer)),
            text_encoder_2=CLIPTextModelWithProjection(_clip_config(tokenizer, 24)),
            tokenizer=tokenizer,
            tokenizer_2=clip_tokenizer(),
            force_zeros_for_empty_prompt=force_zeros,
            unet=_unet(
                40,
                addition_embed_type="text_time",
                addition_time_embed_dim=4,
                projection_class_embeddings_input_dim=24 + 6 * 4,
                use_linear_projection=True,
            ),
            scheduler=EulerDiscreteScheduler(**_betas(), timestep_spacing="leading"),
            add_watermarker=False,
        )
    return _finished(pipe, folder)


def tiny_sd3(folder=None, seed: int = 0) -> StableDiffusion3Pipeline:
    """An SD3 pipeline, 32 x 32 pixels, latents (4, 8, 8), two CLIP encoders and a T5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = clip_tokenizer()
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=40,
            caption_projection_dim=16,
            pooled_projection_dim=40,
            pos_embed_max_size=8,
        )
        pipe = StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_vae(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=CLIPTextModelWithProjection(_clip_config(tokenizer)),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModelWithProjection(_clip_config(tokenizer, 24)),
            tokenizer_2=clip_tokenizer(),
            text_encoder_3=_t5_encoder(40),
            tokenizer_3=t5_tokenizer(),
        )
    return _finished(pipe, folder)


def tiny_flux(folder=None, seed: int = 0, guidance_embeds: bool = True) -> FluxPipeline:
    """A FLUX.1 pipeline, latents (4, 8, 8) for 32 x 32 pixels, a CLIP encoder and a T5.

    Args:
        folder: where to save it; None does not save.
        seed: of the weights.
        guidance_embeds: True as FLUX.1 dev (dynamic shift, the scale is an input), False as schnell.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = clip_tokenizer()
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=12,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 4),
            guidance_embeds=guidance_embeds,
        )
        pipe = FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(
                shift=3.0 if guidance_embeds else 1.0, use_dynamic_shifting=guidance_embeds
            ),
            vae=_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=CLIPTextModel(_clip_config(tokenizer)),
            tokenizer=tokenizer,
            text_encoder_2=_t5_encoder(32),
            tokenizer_2=t5_tokenizer(),
        )
    return _finished(pipe, folder)

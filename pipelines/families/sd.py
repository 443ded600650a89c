"""Stable Diffusion 1 and 2, and the studio's own models: one UNet, one CLIP text encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from pipelines.core.denoiser import Conditioning
from pipelines.core.types import Traits
from pipelines.families.latent import LatentFamily, discrete_schedule, embed_scale
from pipelines.families.prompts import clip_tokens, encode_clip

__all__ = ["StableDiffusion", "guidance_embedding", "sample_side"]


class StableDiffusion(LatentFamily):
    """Models of a StableDiffusionPipeline, with epsilon or v-prediction.

    Conditioning: "prompt_embeds" (B, L, D), L a multiple of the tokenizer's length; for latent consistency
    models also "guidance" (B,), the scale as an input.
    """

    key = "sd"
    network_name = "unet"
    encoder_names = ("text_encoder",)

    def __init__(self, components: Mapping[str, Any]):
        super().__init__(components)
        config = self.network.config
        self.noise_schedule = discrete_schedule(self.components["scheduler"])
        self.prediction_type = self.components["scheduler"].config.get("prediction_type", "epsilon")
        self.embeds_guidance = config.get("time_cond_proj_dim") is not None
        self.traits = Traits(self.key, self.prediction_type, "unet", "embedded" if self.embeds_guidance else "cfg")
        height, width = sample_side(config.sample_size)
        self.default_size = (width * self.vae_scale_factor, height * self.vae_scale_factor)
        self.size_multiple = self.vae_scale_factor * 2 ** (len(config.block_out_channels) - 1)

    @classmethod
    def fits(cls, components: Mapping[str, Any]) -> bool:
        return (
            type(components.get("unet")).__name__ == "UNet2DConditionModel"
            and type(components.get("text_encoder")).__name__ == "CLIPTextModel"
            and components["unet"].config.get("addition_embed_type") is None
        )

    def encode_prompts(
        self, prompt: str, negative_prompt: str, batch_size: int, size: tuple[int, int]
    ) -> dict[str, Conditioning]:
        tokenizer, encoder = self.components["tokenizer"], self.components["text_encoder"]
        texts = {"positive": prompt, "negative": negative_prompt}
        chunks = max(clip_tokens(tokenizer, text)[1] for text in texts.values())
        encoded = {}
        for name, text in texts.items():
            embeds, _ = encode_clip(tokenizer, encoder, text, chunks, lambda output: (output[0], None))
            encoded[name] = Conditioning({"prompt_embeds": embeds.to(self.device).repeat(batch_size, 1, 1)})
        return self.embed_guidance(encoded, self.default_guidance_scale)

    def embed_guidance(
        self, conditionings: Mapping[str, Conditioning], guidance_scale: float
    ) -> dict[str, Conditioning]:
        return embed_scale(conditionings, guidance_scale) if self.embeds_guidance else dict(conditionings)

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        given, dtype = conditioning.tensors, self.network_dtype
        embedded = None
        if self.embeds_guidance:
            embedded = guidance_embedding(given["guidance"], self.network.config.time_cond_proj_dim).to(dtype)
        return self.network(
            latents.to(dtype),
            timesteps,
            encoder_hidden_states=given["prompt_embeds"].to(dtype),
            timestep_cond=embedded,
            added_cond_kwargs=self._added(given, dtype),
            return_dict=False,
        )[0].to(latents.dtype)

    def _added(self, given: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor] | None:
        """The network's further conditions."""
        return None


def sample_side(sample_size: Any) -> tuple[int, int]:
    """(height, width) of a configuration's `sample_size`, in latent pixels."""
    return (sample_size, sample_size) if isinstance(sample_size, int) else tuple(sample_size)


def guidance_embedding(guidance_scale: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines (B, width) of 1000 * (guidance_scale - 1), (B,).

    Source: Luo et al., Latent consistency models, arXiv:2310.04378, section 4.2; as diffusers'
    `get_guidance_scale_embedding`.
    """
    half = width // 2
    steps = torch.arange(half, device=guidance_scale.device)
    rates = torch.exp(-math.log(10000.0) / (half - 1) * steps)
    angles = 1000.0 * (guidance_scale.float() - 1)[:, None] * rates
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))

"""Stable Diffusion 1 and 2, and the studio's own models: one UNet, one CLIP text encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from pipelines.core.denoiser import Conditioning
from pipelines.core.types import Traits
from pipelines.families.latent import LatentFamily, discrete_schedule, embed_scale, has_edm_times, with_embeddings
from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING
from pipelines.families.prompts import encode_clip, most_chunks

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
        self._edm_times = has_edm_times(self.components["scheduler"])
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

    @with_embeddings
    def encode_texts(
        self,
        texts: Mapping[str, str],
        batch_size: int,
        size: tuple[int, int],
        weighting: str = DEFAULT_WEIGHTING,
    ) -> dict[str, Conditioning]:
        tokenizer, encoder = self.components["tokenizer"], self.components["text_encoder"]
        chunks = most_chunks([tokenizer], texts.values())
        encoded = {}
        for name, text in texts.items():
            embeds, _ = encode_clip(tokenizer, encoder, text, chunks, lambda output: (output[0], None), weighting)
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
            self._network_times(timesteps),
            encoder_hidden_states=given["prompt_embeds"].to(dtype),
            timestep_cond=embedded,
            added_cond_kwargs=self._added(given, dtype),
            return_dict=False,
        )[0].to(latents.dtype)

    def _network_times(self, timesteps: torch.Tensor) -> torch.Tensor:
        if not self._edm_times:
            return timesteps
        log_sigmas = [math.log(self.noise_schedule.at(time).sigma_ve) for time in timesteps.flatten().tolist()]
        return timesteps.new_tensor(log_sigmas, dtype=torch.float32).reshape(timesteps.shape) / 4

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

"""Stable Diffusion 3 and 3.5: a flow transformer, two CLIP text encoders and a T5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipelines.core.denoiser import Conditioning
from pipelines.core.errors import SettingsError
from pipelines.core.schedule import FlowSchedule
from pipelines.core.types import Traits
from pipelines.families.latent import LatentFamily, shifted_schedule
from pipelines.families.prompts import clip_tokens, encode_clip, encode_t5

__all__ = ["StableDiffusion3"]


class StableDiffusion3(LatentFamily):
    """Models of a StableDiffusion3Pipeline; the T5 may be absent.

    Conditioning: "prompt_embeds" (B, L + max_sequence_length, D), the CLIPs' rows before the T5's, and
    "pooled_prompt_embeds" (B, P).

    Attributes:
        max_sequence_length: tokens that the T5 reads.
    """

    key = "sd3"
    network_name = "transformer"
    encoder_names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    prediction_type = "flow"
    max_sequence_length = 256

    def __init__(self, components: Mapping[str, Any]):
        super().__init__(components)
        config = self.network.config
        self.traits = Traits(self.key, "flow", "transformer", "cfg")
        self.default_size = (config.sample_size * self.vae_scale_factor,) * 2
        self.size_multiple = self.vae_scale_factor * config.patch_size
        self.noise_schedule = self.noise_schedule_for(*self.default_size)

    @classmethod
    def fits(cls, components: Mapping[str, Any]) -> bool:
        return type(components.get("transformer")).__name__ == "SD3Transformer2DModel"

    def noise_schedule_for(self, width: int, height: int) -> FlowSchedule:
        return shifted_schedule(self.components["scheduler"], width * height // self.size_multiple**2, max_shift=1.16)

    def require_size(self, width: int, height: int) -> None:
        super().require_size(width, height)
        longest = self.network.config.pos_embed_max_size * self.size_multiple
        if max(width, height) > longest:
            raise SettingsError(f"The longer side is {max(width, height)} pixels. This model makes at most {longest}.")

    def encode_prompts(
        self, prompt: str, negative_prompt: str, batch_size: int, size: tuple[int, int]
    ) -> dict[str, Conditioning]:
        texts = {"positive": prompt, "negative": negative_prompt}
        tokenizers = [self.components["tokenizer"], self.components["tokenizer_2"]]
        chunks = max(clip_tokens(tokenizer, text)[1] for text in texts.values() for tokenizer in tokenizers)
        encoded = {}
        for name, text in texts.items():
            embeds, pooled = self._encode(text, chunks)
            encoded[name] = Conditioning(
                {
                    "prompt_embeds": embeds.to(self.device).repeat(batch_size, 1, 1),
                    "pooled_prompt_embeds": pooled.to(self.device).repeat(batch_size, 1),
                }
            )
        return encoded

    def _encode(self, text: str, chunks: int) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [
            encode_clip(
                self.components[f"tokenizer{suffix}"],
                self.components[f"text_encoder{suffix}"],
                text,
                chunks,
                lambda output: (output.hidden_states[-2], output[0]),
            )
            for suffix in ("", "_2")
        ]
        clip = torch.cat([parts[0][0], parts[1][0].to(parts[0][0])], dim=-1)
        pooled = torch.cat([parts[0][1], parts[1][1].to(parts[0][1])], dim=-1)
        t5 = self._encode_t5(text, clip)
        clip = torch.nn.functional.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return torch.cat([clip, t5], dim=-2), pooled

    def _encode_t5(self, text: str, like: torch.Tensor) -> torch.Tensor:
        encoder = self.components.get("text_encoder_3")
        if encoder is None:
            return like.new_zeros(1, self.max_sequence_length, self.network.config.joint_attention_dim)
        return encode_t5(self.components["tokenizer_3"], encoder, text, self.max_sequence_length).to(like)

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        given, dtype = conditioning.tensors, self.network_dtype
        return self.network(
            hidden_states=latents.to(dtype),
            timestep=timesteps,
            encoder_hidden_states=given["prompt_embeds"].to(dtype),
            pooled_projections=given["pooled_prompt_embeds"].to(dtype),
            return_dict=False,
        )[0].to(latents.dtype)

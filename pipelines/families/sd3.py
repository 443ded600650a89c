"""Stable Diffusion 3 and 3.5: a flow transformer, two CLIP text encoders and a T5."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pipelines.core.errors import ModelFileError
from pipelines.core.prediction import Conditioning
from pipelines.core.schedule import FlowSchedule
from pipelines.core.types import Traits
from pipelines.families.controlnet import sd3_control_inputs
from pipelines.families.depth import with_depth
from pipelines.families.latent import LatentFamily, with_embeddings
from pipelines.families.noise_schedules import shifted_schedule
from pipelines.families.prompt_tokens import TextRow, most_chunks
from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING
from pipelines.families.prompts import encode_clip, encode_t5
from pipelines.families.sides import require_longest
from pipelines.prompts.rules import HERE, PromptRules

__all__ = ["StableDiffusion3"]


class StableDiffusion3(LatentFamily):
    """Runs models of a StableDiffusion3Pipeline; the T5 may be absent.

    Conditioning: "prompt_embeds" (B, L + max_sequence_length, D), the CLIPs' rows before the T5's, and
    "pooled_prompt_embeds" (B, P).

    Attributes:
        max_sequence_length: tokens that the T5 reads; where it is absent, the empty tokens in their place. A model
            folder's preview.json may name another number of them than the stock pipeline's 256.
    """

    key = "sd3"
    network_name = "transformer"
    encoder_names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    prediction_type = "flow"
    max_sequence_length = 256

    def __init__(self, components: Mapping[str, Any]):
        super().__init__(components)
        config = self.network.config
        self.traits = with_depth(Traits(self.key, "flow", "transformer", "cfg"), config)
        if components.get("text_encoder_3") is None:
            self.max_sequence_length = _count_empty_tokens(components.get("preview") or {}, self.max_sequence_length)
        self.default_size = (config.sample_size * self.vae_scale_factor,) * 2
        self.size_multiple = self.vae_scale_factor * config.patch_size
        self.noise_schedule = self.noise_schedule_for(*self.default_size)

    @classmethod
    def fits(cls, components: Mapping[str, object]) -> bool:
        return type(components.get("transformer")).__name__ == "SD3Transformer2DModel"

    def noise_schedule_for(self, width: int, height: int) -> FlowSchedule:
        return shifted_schedule(self.components["scheduler"], width * height // self.size_multiple**2, max_shift=1.16)

    def require_size(self, width: int, height: int) -> None:
        super().require_size(width, height)
        require_longest(width, height, self.network.config.pos_embed_max_size * self.size_multiple)

    @with_embeddings
    def encode_texts(
        self,
        texts: Mapping[str, str],
        batch_size: int,
        size: tuple[int, int],
        weighting: str = DEFAULT_WEIGHTING,
        rules: PromptRules = HERE,
    ) -> dict[str, Conditioning]:
        tokenizers = [self.components["tokenizer"], self.components["tokenizer_2"]]
        chunks = most_chunks(tokenizers, texts.values(), rules)
        encoded = {}
        for name, text in texts.items():
            embeds, pooled = self._encode(text, chunks, weighting, rules)
            encoded[name] = Conditioning(
                {
                    "prompt_embeds": embeds.to(self.device).repeat(batch_size, 1, 1),
                    "pooled_prompt_embeds": pooled.to(self.device).repeat(batch_size, 1),
                }
            )
        return encoded

    def list_text_rows(self, texts: Iterable[str], rules: PromptRules = HERE) -> list[TextRow]:
        has_t5 = self.components.get("text_encoder_3") is not None
        t5 = TextRow(self.components["tokenizer_3"] if has_t5 else None, self.max_sequence_length, 0)
        return [*super().list_text_rows(texts, rules), t5]

    def _encode(self, text: str, chunks: int, weighting: str, rules: PromptRules) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [
            encode_clip(
                self.components[f"tokenizer{suffix}"],
                self.components[f"text_encoder{suffix}"],
                text,
                chunks,
                lambda output: (output.hidden_states[-2], output[0]),
                weighting,
                rules,
            )
            for suffix in ("", "_2")
        ]
        clip = torch.cat([parts[0][0], parts[1][0].to(parts[0][0])], dim=-1)
        pooled = torch.cat([parts[0][1], parts[1][1].to(parts[0][1])], dim=-1)
        t5 = self._encode_t5(text, clip, weighting, rules)
        clip = torch.nn.functional.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return torch.cat([clip, t5], dim=-2), pooled

    def _encode_t5(self, text: str, like: torch.Tensor, weighting: str, rules: PromptRules) -> torch.Tensor:
        encoder = self.components.get("text_encoder_3")
        if encoder is None:
            return like.new_zeros(1, self.max_sequence_length, self.network.config.joint_attention_dim)
        return encode_t5(
            self.components["tokenizer_3"],
            encoder,
            text,
            self.max_sequence_length,
            weighting,
            rules,
        ).to(like)

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        tensors, dtype = conditioning.tensors, self.network_dtype
        inputs = latents.to(dtype)
        control = sd3_control_inputs(self.components.get("controlnet"), self.network, inputs, timesteps, tensors)
        return self.network(
            hidden_states=inputs,
            timestep=timesteps,
            encoder_hidden_states=tensors["prompt_embeds"].to(dtype),
            pooled_projections=tensors["pooled_prompt_embeds"].to(dtype),
            return_dict=False,
            **control,
        )[0].to(latents.dtype)

    def prepare_control(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode what a ControlNet reads of a map (B, 3, H, W) in [0, 1]: its latents, without the VAE's shift for
        those ControlNets that were trained so."""
        latents = self.encode_images(pixels)
        config = self.vae.config
        if self.components["controlnet"].config.force_zeros_for_pooled_projection:
            latents = latents + (config.get("shift_factor") or 0.0) * config.scaling_factor
        return latents


def _count_empty_tokens(facts: Mapping[str, object], usual: int) -> int:
    count = facts.get("max_sequence_length", usual)
    if not isinstance(count, int) or not 0 <= count <= 512:
        raise ModelFileError(f"preview.json names the max_sequence_length {count!r}. It must be from 0 to 512.")
    return count

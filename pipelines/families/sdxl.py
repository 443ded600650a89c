"""Stable Diffusion XL: one UNet, two CLIP text encoders, the picture's size as a condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipelines.core.prediction import Conditioning
from pipelines.families.latent import with_embeddings
from pipelines.families.prompt_tokens import most_chunks
from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING
from pipelines.families.prompts import encode_clip
from pipelines.families.sd import StableDiffusion
from pipelines.prompts.rules import HERE, PromptRules

__all__ = ["StableDiffusionXL"]


class StableDiffusionXL(StableDiffusion):
    """Runs models of a StableDiffusionXLPipeline.

    Conditioning: "prompt_embeds" (B, L, D), "pooled_prompt_embeds" (B, P), "time_ids" (B, 6): original
    height and width, crop (0, 0), target height and width.

    An empty negative prompt gives zeros, as in the stock pipeline, unless the component
    "force_zeros_for_empty_prompt" is False.
    """

    key = "sdxl"
    encoder_names = ("text_encoder", "text_encoder_2")

    @classmethod
    def fits(cls, components: Mapping[str, Any]) -> bool:
        return (
            type(components.get("unet")).__name__ == "UNet2DConditionModel"
            and components["unet"].config.get("addition_embed_type") == "text_time"
            and components.get("text_encoder") is not None
            and components.get("text_encoder_2") is not None
        )

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
        zeros = rules.zeros and self.components.get("force_zeros_for_empty_prompt", True)
        width, height = size
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=self.device)
        encoded = {}
        for name, text in texts.items():
            embeds, pooled = self._encode(text, chunks, weighting, rules)
            if zeros and not text and name.startswith("negative"):
                embeds, pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
            encoded[name] = Conditioning(
                {
                    "prompt_embeds": embeds.to(self.device).repeat(batch_size, 1, 1),
                    "pooled_prompt_embeds": pooled.to(self.device).repeat(batch_size, 1),
                    "time_ids": time_ids.repeat(batch_size, 1),
                }
            )
        return self.embed_guidance(encoded, self.default_guidance_scale)

    def _encode(self, text: str, chunks: int, weighting: str, rules: PromptRules) -> tuple[torch.Tensor, torch.Tensor]:
        first, _ = encode_clip(
            self.components["tokenizer"],
            self.components["text_encoder"],
            text,
            chunks,
            lambda output: (output.hidden_states[-(rules.find_layer(self.key) or 2)], None),
            weighting,
            rules,
        )
        second, pooled = encode_clip(
            self.components["tokenizer_2"],
            self.components["text_encoder_2"],
            text,
            chunks,
            lambda output: (output.hidden_states[-(rules.find_layer(self.key) or 2)], output[0]),
            weighting,
            rules,
        )
        return torch.cat([first.to(second), second], dim=-1), pooled

    def _build_added_conditions(
        self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        return {"text_embeds": tensors["pooled_prompt_embeds"].to(dtype), "time_ids": tensors["time_ids"].to(dtype)}

"""Stable Diffusion XL: one UNet, two CLIP text encoders, the picture's size as a condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipelines.core.denoiser import Conditioning
from pipelines.families.prompts import clip_tokens, encode_clip
from pipelines.families.sd import StableDiffusion

__all__ = ["StableDiffusionXL"]


class StableDiffusionXL(StableDiffusion):
    """Models of a StableDiffusionXLPipeline.

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

    def encode_prompts(
        self, prompt: str, negative_prompt: str, batch_size: int, size: tuple[int, int]
    ) -> dict[str, Conditioning]:
        texts = {"positive": prompt, "negative": negative_prompt}
        tokenizers = [self.components["tokenizer"], self.components["tokenizer_2"]]
        chunks = max(clip_tokens(tokenizer, text)[1] for text in texts.values() for tokenizer in tokenizers)
        zeros = not negative_prompt and self.components.get("force_zeros_for_empty_prompt", True)
        width, height = size
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=self.device)
        encoded = {}
        for name, text in texts.items():
            embeds, pooled = self._encode(text, chunks)
            if name == "negative" and zeros:
                embeds, pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
            encoded[name] = Conditioning(
                {
                    "prompt_embeds": embeds.to(self.device).repeat(batch_size, 1, 1),
                    "pooled_prompt_embeds": pooled.to(self.device).repeat(batch_size, 1),
                    "time_ids": time_ids.repeat(batch_size, 1),
                }
            )
        return self.embed_guidance(encoded, self.default_guidance_scale)

    def _encode(self, text: str, chunks: int) -> tuple[torch.Tensor, torch.Tensor]:
        first, _ = encode_clip(
            self.components["tokenizer"],
            self.components["text_encoder"],
            text,
            chunks,
            lambda output: (output.hidden_states[-2], None),
        )
        second, pooled = encode_clip(
            self.components["tokenizer_2"],
            self.components["text_encoder_2"],
            text,
            chunks,
            lambda output: (output.hidden_states[-2], output[0]),
        )
        return torch.cat([first.to(second), second], dim=-1), pooled

    def _added(self, given: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
        return {"text_embeds": given["pooled_prompt_embeds"].to(dtype), "time_ids": given["time_ids"].to(dtype)}

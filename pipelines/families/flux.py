"""FLUX.1: a flow transformer on packed latents, a CLIP and a T5 text encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pipelines.core.prediction import Conditioning
from pipelines.core.schedule import FlowSchedule
from pipelines.core.types import Traits
from pipelines.families.controlnet import CONTROL, flux_control_inputs
from pipelines.families.depth import with_depth
from pipelines.families.guidance_input import embed_scale
from pipelines.families.latent import LatentFamily, with_embeddings
from pipelines.families.noise_schedules import shifted_schedule
from pipelines.families.prompt_tokens import TextRow
from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING
from pipelines.families.prompts import encode_clip, encode_t5
from pipelines.prompts.rules import HERE, PromptRules

__all__ = ["Flux", "image_ids", "pack", "unpack"]


class Flux(LatentFamily):
    """Runs models of a FluxPipeline. Latents are unpacked (B, 16, h, w) outside of the network.

    Conditioning: "prompt_embeds" (B, max_sequence_length, D), "pooled_prompt_embeds" (B, P) and, where the
    network takes the guidance scale as an input, "guidance" (B,).

    Attributes:
        max_sequence_length: tokens that the T5 reads.
    """

    key = "flux"
    network_name = "transformer"
    encoder_names = ("text_encoder", "text_encoder_2")
    prediction_type = "flow"
    max_sequence_length = 512
    default_guidance_scale = 3.5

    def __init__(self, components: Mapping[str, object]):
        super().__init__(components)
        self.embeds_guidance = bool(self.network.config.guidance_embeds)
        guidance = "embedded" if self.embeds_guidance else "cfg"
        self.traits = with_depth(Traits(self.key, "flow", "transformer", guidance), self.network.config)
        self.size_multiple = self.vae_scale_factor * 2
        self.default_size = (128 * self.vae_scale_factor,) * 2
        self.noise_schedule = self.noise_schedule_for(*self.default_size)

    @classmethod
    def fits(cls, components: Mapping[str, object]) -> bool:
        return type(components.get("transformer")).__name__ == "FluxTransformer2DModel"

    @property
    def network_channels(self) -> int:
        return self.network.config.in_channels // 4

    def noise_schedule_for(self, width: int, height: int) -> FlowSchedule:
        return shifted_schedule(self.components["scheduler"], width * height // self.size_multiple**2, max_shift=1.15)

    @with_embeddings
    def encode_texts(
        self,
        texts: Mapping[str, str],
        batch_size: int,
        size: tuple[int, int],
        weighting: str = DEFAULT_WEIGHTING,
        rules: PromptRules = HERE,
    ) -> dict[str, Conditioning]:
        encoded = {}
        for name, text in texts.items():
            _, pooled = encode_clip(
                self.components["tokenizer"],
                self.components["text_encoder"],
                text,
                1,
                lambda output: (output[0], output.pooler_output),
                weighting,
                rules,
            )
            embeds = encode_t5(
                self.components["tokenizer_2"],
                self.components["text_encoder_2"],
                text,
                self.max_sequence_length,
                weighting,
                rules,
            )
            encoded[name] = Conditioning(
                {
                    "prompt_embeds": embeds.to(self.device).repeat(batch_size, 1, 1),
                    "pooled_prompt_embeds": pooled.to(self.device).repeat(batch_size, 1),
                }
            )
        return self.embed_guidance(encoded, self.default_guidance_scale)

    def list_text_rows(self, texts: Iterable[str], rules: PromptRules = HERE) -> list[TextRow]:
        return [TextRow(self.components["tokenizer_2"], self.max_sequence_length, 0)]

    def embed_guidance(
        self, conditionings: Mapping[str, Conditioning], guidance_scale: float
    ) -> dict[str, Conditioning]:
        return embed_scale(conditionings, guidance_scale) if self.embeds_guidance else dict(conditionings)

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        tensors, dtype, size = conditioning.tensors, self.network_dtype, latents.shape[-2:]
        embeds = tensors["prompt_embeds"].to(dtype)
        tokens = pack(latents.to(dtype))
        inputs = {
            "timestep": timesteps.to(dtype) / 1000,
            "guidance": tensors.get("guidance"),
            "pooled_projections": tensors["pooled_prompt_embeds"].to(dtype),
            "encoder_hidden_states": embeds,
            "txt_ids": embeds.new_zeros(embeds.shape[1], 3),
            "img_ids": image_ids(size[0], size[1], embeds.device).to(embeds.dtype),
            "return_dict": False,
        }
        packed = self.network(hidden_states=tokens, **inputs, **self._run_controlnet(tokens, tensors, inputs))[0]
        return unpack(packed, *size).to(latents.dtype)

    def _run_controlnet(
        self, tokens: torch.Tensor, tensors: Mapping[str, torch.Tensor], inputs: Mapping[str, object]
    ) -> dict[str, Any]:
        """The transformer's further arguments; none where there is no map."""
        if CONTROL not in tensors:
            return {}
        controlnet, control = self.components["controlnet"], tensors[CONTROL]
        control = pack(control) if controlnet.input_hint_block is None else control
        return flux_control_inputs(controlnet, tokens, control, tensors, inputs)

    def prepare_control(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return what a ControlNet reads of a map (B, 3, H, W) in [0, 1]: its latents, or pixels in [-1, 1] for one
        with a hint block."""
        return self.encode_images(pixels) if self.components["controlnet"].input_hint_block is None else 2 * pixels - 1


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Turn (B, C, h, w) into (B, h/2 * w/2, 4 * C): squares of 2 x 2 become one token."""
    rows, channels, height, width = latents.shape
    squares = latents.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(rows, (height // 2) * (width // 2), channels * 4)


def unpack(packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Undo `pack` for latents of height x width."""
    rows, _, channels = packed.shape
    squares = packed.reshape(rows, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(rows, channels // 4, height, width)


def image_ids(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return (h/2 * w/2, 3): 0, row and column of every packed token, made on the device, so that nothing waits."""
    rows, columns = (torch.arange(side // 2, device=device) for side in (height, width))
    rows, columns = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()

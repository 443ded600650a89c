"""Stable Diffusion 1 and 2, and the studio's own models: one UNet, one CLIP text encoder."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.prediction import Conditioning
from pipelines.core.types import Traits
from pipelines.families.controlnet import unet_control_inputs
from pipelines.families.depth import with_depth
from pipelines.families.directions import shifted_middle
from pipelines.families.guidance_input import embed_scale
from pipelines.families.image_prompt import applied_image_prompt
from pipelines.families.latent import LatentFamily, with_embeddings
from pipelines.families.noise_schedules import discrete_schedule, has_edm_times
from pipelines.families.prompt_tokens import most_chunks
from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING
from pipelines.families.prompts import encode_clip
from pipelines.prompts.rules import HERE, PromptRules, require_layer
from pipelines.weights.t2i_adapter_levels import Levels, adapter_inputs, list_unet_levels

__all__ = ["StableDiffusion", "guidance_embedding", "sample_side"]


class StableDiffusion(LatentFamily):
    """Runs models of a StableDiffusionPipeline, with epsilon or v-prediction.

    Conditioning: "prompt_embeds" (B, L, D), L a multiple of the tokenizer's length; for latent consistency
    models also "guidance" (B,), the scale as an input.
    """

    key = "sd"
    network_name = "unet"
    encoder_names: ClassVar[tuple[str, ...]] = ("text_encoder",)

    def __init__(self, components: Mapping[str, object]):
        super().__init__(components)
        config = self.network.config
        self.noise_schedule = discrete_schedule(self.components["scheduler"])
        self._edm_times = has_edm_times(self.components["scheduler"])
        self.prediction_type = self.components["scheduler"].config.get("prediction_type", "epsilon")
        self.embeds_guidance = config.get("time_cond_proj_dim") is not None
        guidance = "embedded" if self.embeds_guidance else "cfg"
        encoder = self.components.get("text_encoder")  # a benchmark measures networks without any
        text_config = None if encoder is None else encoder.config.to_dict()
        self.traits = with_depth(Traits(self.key, self.prediction_type, "unet", guidance), config, text_config)
        height, width = sample_side(config.sample_size)
        self.default_size = (width * self.vae_scale_factor, height * self.vae_scale_factor)
        self.size_multiple = math.lcm(8, self.vae_scale_factor)  # as diffusers; the UNet copes with odd halves

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
        rules: PromptRules = HERE,
    ) -> dict[str, Conditioning]:
        tokenizer, encoder = self.components["tokenizer"], self.components["text_encoder"]
        chunks = most_chunks([tokenizer], texts.values(), rules)
        encoded = {}
        read_layer = functools.partial(_read_layer, encoder, rules.find_layer(self._find_version(encoder)))
        for name, text in texts.items():
            embeds, _ = encode_clip(tokenizer, encoder, text, chunks, read_layer, weighting, rules)
            encoded[name] = Conditioning({"prompt_embeds": embeds.to(self.device).repeat(batch_size, 1, 1)})
        return self.embed_guidance(encoded, self.default_guidance_scale)

    @staticmethod
    def _find_version(encoder: Any) -> str:
        """The name by which programs' rules know the family: Stable Diffusion 2 has another text encoder."""
        return "sd2" if encoder.config.hidden_size == _SD2_WIDTH else "sd"

    def embed_guidance(
        self, conditionings: Mapping[str, Conditioning], guidance_scale: float
    ) -> dict[str, Conditioning]:
        return embed_scale(conditionings, guidance_scale) if self.embeds_guidance else dict(conditionings)

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        tensors, dtype = conditioning.tensors, self.network_dtype
        guidance = None
        if self.embeds_guidance:
            guidance = guidance_embedding(tensors["guidance"], self.network.config.time_cond_proj_dim).to(dtype)
        inputs, times = latents.to(dtype), self._convert_times(timesteps)
        added = self._build_added_conditions(tensors, dtype)
        control = unet_control_inputs(self.components.get("controlnet"), inputs, times, tensors, added)
        with (
            applied_image_prompt(self.network, self.components.get("ip_adapter"), tensors),
            shifted_middle(self.network, self.directions, tensors, timesteps),
        ):
            return self.network(
                inputs,
                times,
                encoder_hidden_states=tensors["prompt_embeds"].to(dtype),
                timestep_cond=guidance,
                added_cond_kwargs=added,
                return_dict=False,
                **control,
                **adapter_inputs(tensors, dtype),
            )[0].to(latents.dtype)

    def prepare_control(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return what a ControlNet reads of a map (B, 3, H, W) in [0, 1]: the map itself."""
        return pixels

    @property
    def adapter_levels(self) -> Levels:
        """What T2I-Adapters may add to the network."""
        return list_unet_levels(self.network.config, self.vae_scale_factor)

    def _convert_times(self, timesteps: torch.Tensor) -> torch.Tensor:
        if not self._edm_times:
            return timesteps
        # The schedule is linear in ln(sigma), so the device finds it without asking the host.
        last = self.noise_schedule.num_train_timesteps - 1
        low, high = (math.log(self.noise_schedule.at(time).sigma_ve) for time in (0, last))
        return (low + timesteps.float().clamp(0, last) * ((high - low) / last)) / 4

    def _build_added_conditions(
        self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype
    ) -> dict[str, torch.Tensor] | None:
        """The network's further conditions."""
        return None


def _read_layer(encoder: Any, layer: int, output: Any) -> tuple[torch.Tensor, None]:
    """The encoder's output of a layer counted from the end, under the final norm; of 0 and 1 the last.

    Raises:
        SettingsError: the encoder has no such layer, or is not CLIP ViT-L, whose layers programs count alike.
    """
    if layer < 2:
        return output[0], None
    require_layer(layer, encoder.config.num_hidden_layers)
    if encoder.config.hidden_size == _SD2_WIDTH:
        raise SettingsError(
            f"The clip skip asks for layer {layer} from the end; this model reads its text encoder at a layer of its "
            "own. Set it to 0."
        )
    return getattr(encoder, "text_model", encoder).final_layer_norm(output.hidden_states[-layer]), None


_SD2_WIDTH = 1024
"""Of the text encoder of Stable Diffusion 2, whose last layer is left out where it is stored."""


def sample_side(sample_size: Any) -> tuple[int, int]:
    """Return (height, width) of a configuration's `sample_size`, in latent pixels."""
    return (sample_size, sample_size) if isinstance(sample_size, int) else tuple(sample_size)


def guidance_embedding(guidance_scale: torch.Tensor, width: int) -> torch.Tensor:
    """Return sines and cosines (B, width) of 1000 * (guidance_scale - 1), (B,).

    Source: Luo et al., Latent consistency models, arXiv:2310.04378, section 4.2; as diffusers'
    `get_guidance_scale_embedding`.
    """
    half = width // 2
    steps = torch.arange(half, device=guidance_scale.device)
    rates = torch.exp(-math.log(10000.0) / (half - 1) * steps)
    angles = 1000.0 * (guidance_scale.float() - 1)[:, None] * rates
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))

"""The stock pipeline of diffusers over a family's parts: the same weights, noise, dtype and noise levels as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pipelines.core.loop import Run
from pipelines.families.latent import LatentFamily

__all__ = ["StockPicture"]

_PIPELINES = {
    "sd": ("StableDiffusionPipeline", ("text_encoder", "tokenizer", "feature_extractor", "safety_checker")),
    "sdxl": ("StableDiffusionXLPipeline", ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")),
    "sd3": (
        "StableDiffusion3Pipeline",
        ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"),
    ),
    "flux": ("FluxPipeline", ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")),
}
"""Family to diffusers' pipeline, and its parts that prompts given as embeddings do not need."""


class StockPicture:
    """Makes the picture of a run with diffusers' own pipeline.

    Args:
        family: whose parts it takes; DPM-Solver++ (2M) for diffusion, Euler for flow matching.
        run: of that family, one picture without guidance, from its first level.
        steps: of the run.
        guidance: the scale of a network that takes it as an input.
    """

    def __init__(self, family: LatentFamily, run: Run, steps: int, guidance: float):
        self.family, self.steps, self.guidance = family, steps, guidance
        self._tensors = run.denoiser.conditionings["positive"].tensors
        self._noise = run.latents / run.noise_schedule.initial_scale(run.levels[0])
        self._pipeline = _build_pipeline(family)

    def denoise(self) -> torch.Tensor:
        """Make all steps.

        Returns:
            The final latents, as the network has them: (1, C, h, w), of FLUX packed.
        """
        names = ("prompt_embeds", "pooled_prompt_embeds")
        dtype = self.family.network_dtype
        embeds = {name: self._tensors[name].to(dtype) for name in names if name in self._tensors}
        noise, scale = self._noise.to(dtype), self.family.vae_scale_factor
        height, width = (scale * side for side in noise.shape[-2:])
        if self.family.key == "flux":
            noise = self._pipeline._pack_latents(noise, *noise.shape)
        guidance = self.guidance if self.family.key == "flux" else 1.0
        # SD3's own default begins and ends elsewhere than FLUX's.
        times = {"sigmas": np.linspace(1.0, 1 / self.steps, self.steps)} if self.family.traits.flow else {}
        return self._pipeline(
            latents=noise,
            height=height,
            width=width,
            num_inference_steps=self.steps,
            guidance_scale=guidance,
            output_type="latent",
            return_dict=False,
            **embeds,
            **times,
        )[0]

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        """Give final latents the shape (1, C, h, w)."""
        if self.family.key != "flux":
            return latents
        height, width = (self.family.vae_scale_factor * side for side in self._noise.shape[-2:])
        return self._pipeline._unpack_latents(latents, height, width, self.family.vae_scale_factor)

    def decode(self, latents: torch.Tensor) -> Any:
        """Decode final latents as the pipeline does; returns (1, H, W, 3), float32, of NumPy."""
        vae = self._pipeline.vae
        config: Mapping[str, Any] = vae.config
        plain = self.unpack(latents).to(vae.dtype) / config["scaling_factor"] + (config.get("shift_factor") or 0.0)
        with torch.no_grad():
            image = vae.decode(plain, return_dict=False)[0]
        return self._pipeline.image_processor.postprocess(image, output_type="np")


def _build_pipeline(family: LatentFamily) -> Any:
    import diffusers

    name, absent = _PIPELINES[family.key]
    parts: dict[str, Any] = {part: family.components[part] for part in (family.network_name, "vae")}
    scheduler = family.components["scheduler"]
    scheduler = type(scheduler).from_config(scheduler.config)
    if not family.traits.flow:
        scheduler = diffusers.DPMSolverMultistepScheduler.from_config(
            scheduler.config, timestep_spacing="trailing", steps_offset=1
        )
    more = {"requires_safety_checker": False} if family.key == "sd" else {}
    pipeline = getattr(diffusers, name)(**parts, scheduler=scheduler, **dict.fromkeys(absent), **more)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

"""Draw clips with the stock pipeline: from captions alone, or from a first frame as well."""

from __future__ import annotations

import torch
from diffusers import AnimateDiffPipeline, DPMSolverMultistepScheduler

from pipelines.emoji.clips import FRAMES
from pipelines.training.latents import encode

__all__ = ["draw_clips", "draw_from_frame"]


def draw_clips(
    pipeline: AnimateDiffPipeline, captions: list[str], steps: int = 25, guidance: float = 4.0, first: int = 0
) -> torch.Tensor:
    """Draw one clip for each caption, its noise fixed by its number.

    Args:
        first: the first caption's number.
    Returns: (B, F, 3, H, W) in [0, 1].
    """
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    drawn = [
        pipeline(
            caption,
            num_frames=FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(first + number),
            output_type="pt",
        ).frames.float()
        for number, caption in enumerate(captions)
    ]
    return torch.cat(drawn)


def draw_from_frame(
    pipeline: AnimateDiffPipeline,
    caption: str,
    picture: torch.Tensor,
    steps: int = 25,
    guidance: float = 4.0,
    seed: int = 0,
) -> torch.Tensor:
    """Draw a clip that begins with a picture, whose latents stand in the first frame's place without noise.

    Args:
        picture: (1, 3, H, W) in [0, 1].
    Returns: (F, 3, H, W) in [0, 1], the first as the autoencoder gives the picture back.
    """
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    first = encode(pipeline.vae, picture).to(pipeline.device)
    shape = (1, first.shape[1], FRAMES, *first.shape[2:])
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(first)
    latents[:, :, 0] = first

    def give(_: object, index: int, time: object, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        values["latents"][:, :, 0] = first
        return values

    return pipeline(
        caption,
        num_frames=FRAMES,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=latents,
        callback_on_step_end=give,
        output_type="pt",
    ).frames.float()[0]

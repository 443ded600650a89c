"""The table of second passes ("hires fix"): how a finished picture becomes the start of one at a larger size."""

from __future__ import annotations

from pipelines.core.registry import Method, Table, own_loop_only
from pipelines.second_passes.base import NoSecondPass, SecondPass
from pipelines.second_passes.latent import LatentUpscale, LatentUpscaleSettings
from pipelines.second_passes.pixel import PixelUpscale, PixelUpscaleSettings

__all__ = ["SECOND_PASSES"]


SECOND_PASSES: Table[SecondPass] = Table(
    "second pass",
    [
        Method("none", "None", lambda settings: NoSecondPass(), help="The picture at the size that is chosen."),
        Method(
            "latent",
            "Latent upscale",
            LatentUpscale,
            LatentUpscaleSettings,
            fit=own_loop_only,
            paper="stable-diffusion-webui, hires. fix",
            help="The latents are interpolated and denoised part of the way: more detail, and some change.",
        ),
        Method(
            "pixel",
            "Pixel upscale",
            PixelUpscale,
            PixelUpscaleSettings,
            fit=own_loop_only,
            paper="stable-diffusion-webui, hires. fix",
            help="The picture is enlarged by a network and denoised part of the way: closer to the first pass.",
        ),
    ],
)

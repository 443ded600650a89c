"""The table of second passes ("hires fix"): how a finished picture becomes the start of one at a larger size."""

from __future__ import annotations

from pipelines.core.registry import Method, Table, own_loop_only
from pipelines.second_passes.base import NoSecondPass, SecondPass
from pipelines.second_passes.demofusion import DemoFusion, DemoFusionSettings
from pipelines.second_passes.frequency import FrequencyModulation, FrequencySettings
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
        Method(
            "demofusion",
            "DemoFusion",
            DemoFusion,
            DemoFusionSettings,
            fit=own_loop_only,
            paper="Du et al., arXiv:2311.16973",
            help="The network sees the large picture in windows of the size that it knows: for two to four times that.",
        ),
        Method(
            "frequency",
            "Frequency modulation (FAM)",
            FrequencyModulation,
            FrequencySettings,
            fit=own_loop_only,
            paper="Yang et al., FAM diffusion, arXiv:2411.18552",
            help="Coarse shapes stay those of the first pass, and only the finer ones are drawn anew.",
        ),
    ],
)

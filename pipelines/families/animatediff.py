"""AnimateDiff: Stable Diffusion's UNet with a motion module, whose frames are the rows of one batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.schedule import DiscreteSchedule
from pipelines.families.noise_schedules import discrete_schedule
from pipelines.families.sd import StableDiffusion
from pipelines.weights.libraries import import_libraries

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

__all__ = ["AnimateDiff", "ClipNoise", "linear_schedule"]


class ClipNoise(NoiseSource):
    """Draws the noise of a whole clip from one seed, as (1, C, F, h, w) so that it is diffusers' own.

    Args:
        seed: of the clip.
    """

    def __init__(self, seed: int):
        self.source = NoiseSource([seed])

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        return self.source(like.transpose(0, 1)[None])[0].transpose(0, 1)

    def clone(self) -> ClipNoise:
        twin = ClipNoise(0)
        twin.source = self.source.clone()
        return twin


class AnimateDiff(StableDiffusion):
    """Runs models of an AnimateDiffPipeline, for clips of a fixed number of frames.

    To the loop the frames are a batch of F samples, so every sampler, schedule and guidance applies as it is;
    the network sees them as one clip, (1, C, F, h, w), and its motion module attends along F.

    Args:
        components: of the pipeline; "unet" is a UNetMotionModel.
        frames: F.
        noise_schedule: replaces that of the components' scheduler.

    Source: Guo et al., AnimateDiff, arXiv:2307.04725, section 4; its motion module was trained on linear betas.
    """

    key = "animatediff"

    def __init__(self, components: Mapping[str, object], frames: int, noise_schedule: DiscreteSchedule | None = None):
        super().__init__(components)
        self.frames = self.rows_together = frames
        self.noise_schedule = noise_schedule or self.noise_schedule

    @classmethod
    def fits(cls, components: Mapping[str, object]) -> bool:
        return type(components.get("unet")).__name__ == "UNetMotionModel"

    @property
    def longest(self) -> int:
        """Most frames of one clip: the places in time that the motion module knows."""
        return int(self.network.config.get("motion_max_seq_length") or 32)

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        clips = latents.unflatten(0, (-1, self.frames)).transpose(1, 2)
        return super().predict_raw(clips, timesteps[:: self.frames], conditioning).transpose(1, 2).flatten(0, 1)


def linear_schedule(scheduler: SchedulerMixin) -> DiscreteSchedule:
    """Return the scheduler's noise schedule with its betas spaced linearly, as the motion modules were trained.

    Source: Guo et al.'s training and inference configurations: beta_start 0.00085, beta_end 0.012, "linear".
    """
    import_libraries()
    from diffusers import DDIMScheduler

    return discrete_schedule(DDIMScheduler.from_config(scheduler.config, beta_schedule="linear", trained_betas=None))

"""AnimateDiff in the studio's own loop: any sampler, guidance and schedule, the estimate visible at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.loop import denoise
from pipelines.core.registry import setting
from pipelines.requests.encoding import decode, encode_request
from pipelines.requests.step_pictures import with_pictures
from pipelines.requests.text_to_image import assemble_run, resolve
from pipelines.workflows.video.base import ONE_NOISE, ClipFrames, ClipStep, VideoJob, refuse_keyframes, refuse_unread

if TYPE_CHECKING:
    from pipelines.families.stock import StockPipeline

__all__ = ["AnimateDiffClip", "AnimateDiffSettings"]


@dataclasses.dataclass(frozen=True)
class AnimateDiffSettings:
    betas: str = setting(
        "auto",
        "Those of the model's own scheduler, or linear, as the published motion modules were trained. Auto takes "
        "linear where the model predicts the noise, as theirs does, and its own where it predicts the velocity.",
        choices=("auto", "linear", "model"),
        label="Noise schedule",
    )


class AnimateDiffClip:
    """Denoises all frames together, a motion module letting each see the others.

    Source: Guo et al., AnimateDiff, arXiv:2307.04725, section 4.
    """

    unread = ONE_NOISE

    def __init__(self, settings: AnimateDiffSettings = AnimateDiffSettings()):
        self.settings = settings

    def check(self, job: VideoJob) -> None:
        refuse_keyframes(job, "AnimateDiff")
        refuse_unread(job.base)

    def num_steps(self, job: VideoJob) -> int:
        return job.base.num_inference_steps

    def run(
        self, job: VideoJob, model: StockPipeline, cancelled: Callable[[], bool]
    ) -> Iterator[ClipStep | ClipFrames]:
        from pipelines.families.animatediff import AnimateDiff, ClipNoise, linear_schedule

        components = model.pipe.components
        scheduler = components["scheduler"]
        predicts_noise = scheduler.config.get("prediction_type", "epsilon") == "epsilon"
        linear = self.settings.betas == "linear" or (self.settings.betas == "auto" and predicts_noise)
        schedule = linear_schedule(scheduler) if linear else None
        family = AnimateDiff(components, job.frames, schedule)
        if job.frames > family.longest:
            raise SettingsError(
                f"The number of frames is {job.frames}. This motion module knows {family.longest} places in time: "
                "choose at most that."
            )
        resolved = resolve(job.base, family)
        base = resolved.request
        source = ClipNoise(base.seed)
        noise = source(torch.empty((job.frames, *family.latent_shape(base.width, base.height))))
        texts, plan = encode_request(base, family, job.frames)
        run = assemble_run(resolved, family, (noise, source), texts, cancelled, plan)
        for _, step, pictures in with_pictures(((0, step) for step in denoise(run)), [family]):
            yield ClipStep(
                0,
                step.index,
                step.num_steps,
                pictures.noisy,
                pictures.denoised,
                step.next_level.sigma_ve,
                step.level.timestep,
                step.evaluations,
                step.seconds,
                job.frames,
            )
        yield ClipFrames(0, decode(family, step.latents))

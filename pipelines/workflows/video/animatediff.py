"""AnimateDiff in the studio's own loop: any sampler, guidance and schedule, the estimate visible at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.core.errors import SettingsError
from pipelines.core.loop import denoise
from pipelines.core.registry import setting
from pipelines.edits.inpaint import Blended
from pipelines.requests.encoding import decode, encode_request
from pipelines.requests.step_pictures import with_pictures
from pipelines.requests.text_to_image import assemble_run, resolve
from pipelines.workflows.edit.encoded import to_tensor
from pipelines.workflows.video.base import ONE_NOISE, ClipFrames, ClipStep, VideoJob, refuse_keyframes, refuse_unread
from pipelines.workflows.video.first_frame import GivenFrame, fit_picture

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.core.loop import Run
    from pipelines.families.animatediff import AnimateDiff
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
    first_frame: str = setting(
        "auto",
        "With the noise of each step, as every motion module sees its frames, or clean, which only modules that were "
        "trained so understand. Auto takes what the model was trained for.",
        choices=("auto", "noisy", "clean"),
        label="First frame",
    )


class AnimateDiffClip:
    """Denoises all frames together, a motion module letting each see the others.

    A first frame is given by replacement: after every step its latents are those of the picture at the noise level
    reached, and the picture's own after the last. The other frames see it through the motion module, as they would see
    one that they had drawn. That needs no weights beside the module's, but in the first steps, which decide what stands
    where, little is seen of it. A module that was trained with clean first frames, as the model's preview.json says by
    "first_frame": "clean", is given them so: see `GivenFrame`.

    Source: Guo et al., AnimateDiff, arXiv:2307.04725, section 4; for the first frame Ho et al., Video Diffusion Models,
    arXiv:2204.03458, section 3.1, the replacement method.
    Differs: the first frame has one noise for the whole run, where theirs is drawn anew at every step. The gradient by
    which they improve on the replacement is left out.
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
        if job.first_frame is not None:
            way = self.settings.first_frame
            is_clean = way == "clean" or (way == "auto" and model.facts.get("first_frame") == "clean")
            run = _hold_first_frame(run, family, fit_picture(job.first_frame, base.width, base.height), is_clean)
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


def _hold_first_frame(run: Run, family: AnimateDiff, picture: Image.Image, is_clean: bool) -> Run:
    """The run, its first row held to a picture of the clip's size."""
    latents = family.encode_images(to_tensor(np.asarray(picture))).to(run.latents)
    if is_clean:
        return dataclasses.replace(run, sampler=GivenFrame(run.sampler, latents))
    drawn = torch.ones((family.frames, 1, 1, 1))
    drawn[0] = 0
    return dataclasses.replace(run, sampler=Blended(run.sampler, latents, run.latents[:1], drawn))

"""A video model through its own diffusers pipeline: its own call, with previews and a cancel."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.core.errors import MethodFitError
from pipelines.core.registry import parse_settings, setting
from pipelines.core.types import Request
from pipelines.guidance import GUIDANCE
from pipelines.models.video_models import VIDEO_MODELS, VideoModel
from pipelines.prompts.brackets import unescape
from pipelines.requests.encoding import to_uint8
from pipelines.weights.libraries import import_libraries
from pipelines.workflows.video.base import (
    ONE_NOISE,
    OUR_LOOP,
    ClipFrames,
    ClipStep,
    VideoJob,
    refuse_keyframes,
    refuse_unread,
)
from pipelines.workflows.video.first_frame import fit_picture

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from pipelines.families.stock import StockPipeline

__all__ = ["OwnPipeline", "OwnPipelineSettings", "StableVideo", "StableVideoSettings"]


@dataclasses.dataclass(frozen=True)
class OwnPipelineSettings:
    true_guidance_scale: float = setting(
        1.0,
        "Above 1 a model that was distilled to need no negative prompt reads one, at twice the work.",
        low=1,
        high=30,
        step=0.1,
        label="True guidance scale",
    )


class OwnPipeline:
    """The call of the model's own pipeline, given frames, size, guidance and seed by diffusers' names."""

    unread = ONE_NOISE | OUR_LOOP

    def __init__(self, settings: OwnPipelineSettings = OwnPipelineSettings()):
        self.extra: Mapping[str, Any] = {}
        self.true_guidance_scale = settings.true_guidance_scale

    def check(self, job: VideoJob) -> None:
        refuse_keyframes(job, "This model")
        refuse_unread(job.base)

    def num_steps(self, job: VideoJob) -> int:
        return job.base.num_inference_steps

    def run(
        self, job: VideoJob, model: StockPipeline, cancelled: Callable[[], bool]
    ) -> Iterator[ClipStep | ClipFrames]:
        from pipelines.families.stock import StockResult
        from pipelines.families.stock_video import StockVideo

        video_model = VIDEO_MODELS.get(type(model.pipe).__name__, VideoModel("this model", 0, 0))
        pipe = model.pipe
        if job.first_frame is not None and video_model.from_picture:
            pipe = _rebuild_pipeline(pipe, video_model.from_picture)
        pipe.set_progress_bar_config(disable=True)
        stock = StockVideo(pipe)
        for event in stock.run(self.arguments(job, stock), cancelled):
            if isinstance(event, StockResult):
                yield ClipFrames(0, _read_frames(event.output))
                continue
            small = stock.preview(event)
            noisy = None if small is None else to_uint8(small)
            yield ClipStep(
                0,
                event.index,
                event.num_steps or self.num_steps(job),
                noisy,
                None,
                math.nan,
                math.nan,
                0,
                event.seconds,
                job.frames,
            )

    def arguments(self, job: VideoJob, pipeline: StockPipeline) -> dict[str, Any]:
        """Return diffusers' arguments for a clip, those that this pipeline's call takes.

        Args:
            job: checked.
            pipeline: knows what its call accepts.

        Raises:
            MethodFitError: it does not take something that was asked for.
        """
        base = job.base
        picture = None if job.first_frame is None else fit_picture(job.first_frame, base.width, base.height)
        arguments = {
            "prompt": unescape(base.prompt),
            "negative_prompt": unescape(base.negative_prompt),
            "width": base.width or None,
            "height": base.height or None,
            "num_frames": job.frames,
            "num_inference_steps": base.num_inference_steps,
            **_choose_guidance(base, pipeline),
            **_choose_true_guidance(base, self.true_guidance_scale, pipeline),
            "generator": torch.Generator().manual_seed(base.seed),
            "output_type": "np",
            "image": picture,
            "fps": job.fps,
            "frame_rate": job.fps,
            **self.extra,
        }
        return {name: value for name, value in arguments.items() if name in pipeline.accepted and value is not None}


@dataclasses.dataclass(frozen=True)
class StableVideoSettings:
    motion_bucket_id: int = setting(
        127, "How much moves: 0 hardly anything, 255 a lot.", low=0, high=255, step=1, label="Motion"
    )
    noise_aug_strength: float = setting(
        0.02,
        "Noise added to the first frame: more lets the clip leave it further behind.",
        low=0,
        high=1,
        step=0.01,
        label="Noise on the first frame",
    )


class StableVideo(OwnPipeline):
    """Runs Stable Video Diffusion: a clip from a picture.

    Source: Blattmann et al., Stable Video Diffusion, arXiv:2311.15127, sections 4.2 and D.3.
    """

    def __init__(self, settings: StableVideoSettings = StableVideoSettings()):
        super().__init__()
        self.extra = dataclasses.asdict(settings)


def _rebuild_pipeline(pipe: DiffusionPipeline, name: str) -> DiffusionPipeline:
    """Another pipeline's class around the same parts, with the pipeline's own settings."""
    import_libraries()
    import diffusers

    cls = getattr(diffusers, name)
    names = inspect.signature(cls.__init__).parameters.keys() - {"self"}
    components = {**pipe.config, **pipe.components}
    return cls(**{name: components[name] for name in names if name in components})


def _choose_guidance(base: Request, pipeline: StockPipeline) -> dict[str, Any]:
    """The guidance scale, under the name that the pipeline has for it, and its rescaling."""
    guidance = GUIDANCE[base.guidance.key]
    settings = parse_settings(guidance.settings, base.guidance.settings)
    rescale = getattr(settings, "guidance_rescale", 0.0)
    if rescale and "guidance_rescale" not in pipeline.accepted:
        raise MethodFitError(
            f"The guidance rescale is {rescale:g}, and this model's own pipeline has none. Set it to 0."
        )
    arguments = {"guidance_rescale": rescale}
    if (scale := getattr(settings, "guidance_scale", None)) is not None:
        arguments[pipeline.guidance_name or "max_guidance_scale"] = scale
    return arguments


def _choose_true_guidance(base: Request, scale: float, pipeline: StockPipeline) -> dict[str, Any]:
    """A second, unconditional pass, where a pipeline's guidance scale may be an input of its network."""
    negative = bool(base.negative_prompt)
    if negative and "negative_prompt" not in pipeline.accepted:
        raise MethodFitError("This model reads no negative prompt. Leave it empty.")
    if pipeline.guidance_name == "true_cfg_scale" or "true_cfg_scale" not in pipeline.accepted:
        if scale > 1:
            raise MethodFitError("This model has no true guidance scale beside its guidance scale. Set it to 1.")
        # One that guides by it does so only if it is given a negative prompt, and a blank is none.
        blank = pipeline.guidance_name == "true_cfg_scale" and not negative
        return {"negative_prompt": " "} if blank else {}
    if negative and scale <= 1:
        raise MethodFitError(
            "This model reads a negative prompt only at a true guidance scale above 1. Set one, or leave it empty."
        )
    if scale > 1 and not negative:
        raise MethodFitError(
            f"The true guidance scale is {scale:g}, and counts only against a negative prompt. Write a negative "
            "prompt, "
            "or set it to 1."
        )
    return {"true_cfg_scale": scale} if negative else {}


def _read_frames(output: object) -> np.ndarray:
    """(F, H, W, 3) uint8 of the first clip that a pipeline returned."""
    frames = output.get("frames") if isinstance(output, Mapping) else getattr(output, "frames", None)
    if frames is None:
        raise MethodFitError("This model makes no clip. Choose another for this tab.")
    clip = np.asarray(frames[0] if not isinstance(frames, np.ndarray) or frames.ndim == 5 else frames)
    return (clip.clip(0, 1) * 255).round().astype(np.uint8) if clip.dtype != np.uint8 else clip

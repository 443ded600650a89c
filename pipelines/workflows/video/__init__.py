"""The table of video methods: how a clip is made. What fits is asked of the model's line in the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.core.errors import MethodFitError
from pipelines.core.registry import Method, Table
from pipelines.workflows.video.animatediff import AnimateDiffClip, AnimateDiffSettings
from pipelines.workflows.video.base import Video
from pipelines.workflows.video.pipeline import OwnPipeline, OwnPipelineSettings, StableVideo, StableVideoSettings
from pipelines.workflows.video.walk import Walk, WalkSettings

if TYPE_CHECKING:
    from pipelines.models.entry import CatalogEntry

__all__ = ["VIDEOS", "fitting_videos"]

_OWN = ("AnimateDiffPipeline", "StableVideoDiffusionPipeline")


def _fits_walk(entry: CatalogEntry) -> str | None:
    if entry.kind == "video":
        return "it makes clips, and a walk needs a model of pictures"
    return "it runs through its own pipeline only" if entry.family == "stock" else None


def _fits_animatediff(entry: CatalogEntry) -> str | None:
    return None if entry.pipeline == "AnimateDiffPipeline" else "it has no motion module of AnimateDiff"


def _fits_stable_video(entry: CatalogEntry) -> str | None:
    return None if entry.pipeline == "StableVideoDiffusionPipeline" else "it is not Stable Video Diffusion"


def _fits_stock(entry: CatalogEntry) -> str | None:
    if entry.kind != "video":
        return "it makes pictures, not clips"
    return "it has a method of its own here" if entry.pipeline in _OWN else None


VIDEOS: Table[Video] = Table(
    "video",
    [
        Method(
            "walk",
            "Walk between prompts",
            Walk,
            WalkSettings,
            fit=_fits_walk,
            paper="White, arXiv:1609.04468; Song et al., DDIM, arXiv:2010.02502",
            help="Turns prompt and noise of one picture into those of the next: works with every model of pictures.",
        ),
        Method(
            "animatediff",
            "AnimateDiff",
            AnimateDiffClip,
            AnimateDiffSettings,
            fit=_fits_animatediff,
            paper="Guo et al., AnimateDiff, arXiv:2307.04725",
            help="Stable Diffusion with a motion module: all frames are denoised together, with any sampler.",
        ),
        Method(
            "svd",
            "Stable Video Diffusion",
            StableVideo,
            StableVideoSettings,
            fit=_fits_stable_video,
            paper="Blattmann et al., Stable Video Diffusion, arXiv:2311.15127",
            help="Sets a picture in motion, through the model's own pipeline.",
        ),
        Method(
            "pipeline",
            "The model's own pipeline",
            OwnPipeline,
            OwnPipelineSettings,
            fit=_fits_stock,
            paper="diffusers' pipeline of the model",
            help="Wan, LTX, CogVideoX, HunyuanVideo, SkyReels and others, each through its own diffusers pipeline.",
        ),
    ],
)


def fitting_videos(entry: CatalogEntry) -> list[Method]:
    """Return the methods that fit a model, the best first.

    Args:
        entry: a `CatalogEntry`.

    Raises:
        MethodFitError: none does.
    """
    methods = VIDEOS.fitting(entry)
    if not methods:
        raise MethodFitError(
            f"{entry.label} cannot make clips here: it runs through its own pipeline, which makes single "
            "pictures. Choose another model."
        )
    return methods

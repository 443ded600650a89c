"""What a video method is: from a clip that is asked for and a loaded model to steps and finished frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.types import Request
from pipelines.requests.refusals import require_unsteered

__all__ = ["ONE_NOISE", "OUR_LOOP", "ClipFrames", "ClipStep", "Video", "VideoJob", "refuse_keyframes", "refuse_unread"]

ONE_NOISE = frozenset({"loras", "variation_seed", "variation_strength"})
"""Fields of a request that a method does not read which draws the noise of all frames at once."""

OUR_LOOP = frozenset({"sampler", "schedule", "start"})
"""Fields that only the studio's own loop reads: their tables fit no model that runs through its own pipeline."""


@dataclasses.dataclass(frozen=True)
class VideoJob:
    """Describes a clip to make.

    Attributes:
        keys: the requests that a walk passes through; other methods read the first alone.
        frames: of the clip.
        fps: frames a second, which some models condition on.
        first_frame: (H, W, 3) uint8; None without.
    """

    keys: tuple[Request, ...]
    frames: int
    fps: int
    first_frame: np.ndarray | None = None

    @property
    def base(self) -> Request:
        """The first key: model, methods, steps and size of the whole clip."""
        return self.keys[0]


@dataclasses.dataclass(frozen=True)
class ClipStep:
    """Describes one finished denoising step of some of a clip's frames.

    Attributes:
        first: the first of these frames in the clip, from 0.
        index: of the step in the whole run, from 0.
        num_steps: of the whole run; 0 where the model does not say.
        noisy: (n, h, w, 3) uint8, small pictures of the noisy latents; None where the model shows none.
        denoised: likewise of the estimate of the finished frames; None where the model gives none.
        sigma, timestep: noise level after the step as sigma / alpha, and network time before it; NaN if unknown.
        evaluations: of the network so far, batch after batch, one that several frames share counted once; 0 if unknown.
        seconds: of the run so far.
        num_frames: how many of the clip's frames the pictures stand for, evenly.
    """

    first: int
    index: int
    num_steps: int
    noisy: np.ndarray | None
    denoised: np.ndarray | None
    sigma: float
    timestep: float
    evaluations: float
    seconds: float
    num_frames: int


@dataclasses.dataclass(frozen=True)
class ClipFrames:
    """Describes finished frames: (n, H, W, 3) uint8, from frame `first` on."""

    first: int
    pictures: np.ndarray


class Video(Protocol):
    """Represents one method of the video table, built with its settings.

    Attributes:
        unread: fields of a request that it does not read, and that are not kept with the clip.
    """

    unread: frozenset[str]

    def check(self, job: VideoJob) -> None:
        """Raise SettingsError if the method cannot make this clip, or would leave out what was asked for."""

    def num_steps(self, job: VideoJob) -> int:
        """Count the denoising steps of the whole run."""

    def run(self, job: VideoJob, model: Any, cancelled: Callable[[], bool]) -> Iterator[ClipStep | ClipFrames]:
        """Make the clip: every frame is given once, in order, as soon as it is finished.

        Args:
            job: checked.
            model: a Family with its LoRAs applied, or a StockPipeline, whichever the method fits.
            cancelled: polled before every evaluation, or after every step of a stock pipeline.

        Raises:
            Cancelled: the person stopped it.
        """


def refuse_keyframes(job: VideoJob, model: str) -> None:
    """Raise SettingsError for more than one keyframe.

    Args:
        job: of one clip.
        model: begins the sentence that says who takes only one prompt and one seed.
    """
    if len(job.keys) > 1:
        raise SettingsError(
            f"{len(job.keys)} keyframes are given. {model} takes one prompt and one seed: remove the others."
        )


def refuse_unread(request: Request) -> None:
    """Raise SettingsError for what only a walk reads, instead of leaving it out unsaid."""
    require_unsteered(request, "A model of clips")
    if request.loras:
        raise MethodFitError("LoRAs cannot be applied to a model of clips. Remove them.")
    if request.variation_strength:
        raise MethodFitError("A model of clips draws the noise of all frames at once: set the variation strength to 0.")

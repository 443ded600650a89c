"""A walk between prompts and seeds on a model of pictures: every frame is a picture of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import torch

from pipelines.core.devices import upload
from pipelines.core.errors import SettingsError
from pipelines.core.loop import denoise
from pipelines.core.noise import NoiseSource, slerp
from pipelines.core.prediction import Conditioning
from pipelines.core.registry import setting
from pipelines.core.types import Request
from pipelines.families.alike import encode_alike
from pipelines.families.base import Family
from pipelines.requests.encoding import decode
from pipelines.requests.prompts import prompt_rules, require_one_text
from pipelines.requests.step_pictures import with_pictures
from pipelines.requests.text_to_image import assemble_run, resolve, resolve_size, starting_noise
from pipelines.workflows.video.base import ClipFrames, ClipStep, VideoJob

__all__ = ["Place", "Walk", "WalkNoise", "WalkSettings", "between", "places"]


@dataclasses.dataclass(frozen=True)
class WalkSettings:
    easing: str = setting(
        "smooth", "Smooth rests a little at every keyframe; linear goes on at one speed.", choices=("smooth", "linear")
    )
    loop: bool = setting(
        False, "Goes back to the first keyframe, so that the clip repeats without a seam.", label="Loop"
    )
    frames_at_once: int = setting(
        4,
        "Frames that share the network's batches: more is faster, one is steadier on memory.",
        low=1,
        high=32,
        step=1,
        label="Frames at once",
    )


@dataclasses.dataclass(frozen=True)
class Place:
    """Says where a frame stands: `share` of the way (0 to 1) from key `start` to key `end`."""

    start: int
    end: int
    share: float


def places(frames: int, keys: int, loop: bool = False, easing: str = "smooth") -> list[Place]:
    """Return the place of every frame. Each key is met exactly, by one frame, so that nothing asked for is skipped.

    Args:
        frames: of the clip, at least as many as there are keys.
        keys: at least 2.
        loop: also walks from the last key back to the first, whose frame is not shown twice.
        easing: "linear", or "smooth" for 3 t^2 - 2 t^3 in each part of the way.
    """
    parts, last = (keys, frames) if loop else (keys - 1, frames - 1)
    key_frames = [math.floor(part * last / parts + 0.5) for part in range(parts + 1)]
    places_of_frames = []
    for frame in range(frames):
        part = max(index for index in range(parts) if key_frames[index] <= frame)
        share = (frame - key_frames[part]) / (key_frames[part + 1] - key_frames[part])
        if easing == "smooth":
            share = share * share * (3 - 2 * share)
        start, end = part, (part + 1) % keys
        places_of_frames.append(Place(end, end, 0.0) if share == 1 else Place(start, end, share))
    return places_of_frames


def between(start: torch.Tensor, end: torch.Tensor, share: float) -> torch.Tensor:
    """Interpolate each vector of the last dimension on the sphere, as text embeddings are: one vector a word.

    Equal tensors and the two ends come back unchanged, to the bit.

    Args:
        start, end: (..., D).
        share: 0 gives `start`, 1 gives `end`.
    """
    if torch.equal(start, end):
        return start
    width = start.shape[-1]
    return slerp(start.reshape(-1, width), end.reshape(-1, width), share).reshape(start.shape)


class WalkNoise(NoiseSource):
    """The noise of frames on the way between two seeds: at a key that key's own, so that it is that key's picture.

    A stochastic sampler's later noise is turned in the same way as the first, which keeps it standard normal.

    Args:
        pairs: for each frame the sources of the keys that it stands between, each drawn from by this frame alone.
        shares: of the way, for each frame.
    """

    def __init__(self, pairs: Sequence[tuple[NoiseSource, NoiseSource]], shares: Sequence[float]):
        self.pairs, self.shares = list(pairs), list(shares)

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        # Turned on the CPU: whether two noises are equal is asked there without waiting for a device.
        rows, shape = [], torch.empty((1, *like.shape[1:]), dtype=like.dtype)
        for (start, end), share in zip(self.pairs, self.shares, strict=True):
            first, second = start(shape), end(shape)
            rows.append(first if torch.equal(first, second) else slerp(first, second, share))
        return upload(torch.cat(rows), like.device)

    def clone(self) -> WalkNoise:
        return WalkNoise([(start.clone(), end.clone()) for start, end in self.pairs], self.shares)


class Walk:
    """Noise and text embeddings turn from key to key; each frame is denoised by itself.

    A frame that meets a key is the picture that text to image makes of the key's prompt and seed.

    Source: White, Sampling generative networks, arXiv:1609.04468, section 2.1, for spherical interpolation of
        Gaussian latents; Song et al., DDIM, arXiv:2010.02502, section 5.3, for that of diffusion's initial noise.
    """

    unread: frozenset[str] = frozenset()

    def __init__(self, settings: WalkSettings = WalkSettings()):
        self.settings = settings

    def check(self, job: VideoJob) -> None:
        keys = len(job.keys)
        for key in job.keys:
            require_one_text(key.prompt, key.negative_prompt, "Walks")
        if keys < 2:
            raise SettingsError("The walk has one keyframe. Give it at least two prompts or seeds to walk between.")
        if job.frames < keys:
            raise SettingsError(
                f"The number of frames is {job.frames}, fewer than the {keys} keyframes. Choose at least {keys}."
            )
        if len({(key.prompt, key.seed) for key in job.keys}) == 1:
            raise SettingsError(
                "The keyframes all have the same prompt and the same seed: every frame would be the same picture. Give "
                "one of them another prompt or another seed."
            )

    def num_steps(self, job: VideoJob) -> int:
        return math.ceil(job.frames / self.settings.frames_at_once) * job.base.num_inference_steps

    def run(self, job: VideoJob, model: Family, cancelled: Callable[[], bool]) -> Iterator[ClipStep | ClipFrames]:
        resolved = resolve(job.keys[0], model)
        keys = [resolve_size(key, model) for key in job.keys]
        texts = _encode(keys, model)
        alone = [dataclasses.replace(resolved, request=key.replace(batch_size=1)) for key in keys]
        noises = [starting_noise(one, model) for one in alone]
        way = places(job.frames, len(keys), self.settings.loop, self.settings.easing)
        num_steps_done, seconds, evaluations = 0, 0.0, 0.0
        for first in range(0, job.frames, self.settings.frames_at_once):
            part = way[first : first + self.settings.frames_at_once]
            run = assemble_run(resolved, model, _mix_noise(part, noises), _mix_conditionings(part, texts), cancelled)
            for _, step, pictures in with_pictures(((0, step) for step in denoise(run)), [model]):
                yield ClipStep(
                    first,
                    num_steps_done,
                    self.num_steps(job),
                    pictures.noisy,
                    pictures.denoised,
                    step.next_level.sigma_ve,
                    step.level.timestep,
                    evaluations + step.evaluations,
                    seconds + step.seconds,
                    len(part),
                )
                num_steps_done += 1
            seconds, evaluations = seconds + step.seconds, evaluations + step.evaluations
            yield ClipFrames(first, decode(model, step.latents))


def _encode(keys: Sequence[Request], model: Family) -> list[dict[str, Conditioning]]:
    """Encode the prompts of the keys, which differ in nothing else that the text encoder is told."""
    first, pairs = keys[0], [(key.prompt, key.negative_prompt) for key in keys]
    return encode_alike(model, pairs, (first.width, first.height), first.prompt_weighting, prompt_rules(first))


def _mix_noise(
    part: Sequence[Place], noises: Sequence[tuple[torch.Tensor, NoiseSource]]
) -> tuple[torch.Tensor, WalkNoise]:
    rows, pairs = [], []
    for place in part:
        (start, start_source), (end, end_source) = noises[place.start], noises[place.end]
        rows.append(start if torch.equal(start, end) else slerp(start, end, place.share))
        pairs.append((start_source.clone(), end_source.clone()))
    return torch.cat(rows), WalkNoise(pairs, [place.share for place in part])


def _mix_conditionings(part: Sequence[Place], texts: Sequence[dict[str, Conditioning]]) -> dict[str, Conditioning]:
    """One conditioning a branch, a row a frame."""
    conditionings = {}
    for branch in texts[0]:
        rows = [
            Conditioning(
                {
                    name: between(tensor, texts[place.end][branch].tensors[name], place.share)
                    for name, tensor in texts[place.start][branch].tensors.items()
                }
            )
            for place in part
        ]
        conditionings[branch] = Conditioning.cat(rows)
    return conditionings

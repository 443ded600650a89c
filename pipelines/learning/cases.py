"""Prompts and noises that runs are measured on: many pictures at once, each with its own prompt and seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.gradients import no_grad
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource, initial_noise
from pipelines.core.prediction import Conditioning, Guidance, Network
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level, NoiseSchedule
from pipelines.families.base import Family

__all__ = ["Cases", "finals", "make_cases"]


@dataclasses.dataclass(frozen=True)
class Cases:
    """Describes pictures to be made, whatever the sampler.

    Attributes:
        conditionings: branch name to conditioning, a row a picture.
        noise: (N, C, h, w), float32, unit normal, on the network's device.
        seeds: one a picture; a stochastic sampler goes on from the same generator.
    """

    conditionings: Mapping[str, Conditioning]
    noise: torch.Tensor
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.seeds)

    def part(self, start: int, stop: int) -> Cases:
        """Return pictures start to stop."""
        rows = {name: one.rows(start, stop) for name, one in self.conditionings.items()}
        return Cases(rows, self.noise[start:stop], self.seeds[start:stop])

    def parts(self, size: int) -> Iterator[Cases]:
        """Yield all pictures, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield self.part(start, start + size)

    def source(self) -> NoiseSource:
        """Return the seeds' generators behind the initial noise."""
        source = NoiseSource(self.seeds)
        initial_noise(source, tuple(self.noise.shape))
        return source


@no_grad
def make_cases(
    family: Family,
    prompts: Sequence[str],
    seeds: Sequence[int],
    negative_prompt: str = "",
    size: tuple[int, int] = (0, 0),
) -> Cases:
    """Make one picture for each prompt and its seed.

    Args:
        family: the loaded model.
        prompts, seeds: as many of one as of the other.
        negative_prompt: of all.
        size: (width, height) in pixels; 0 for the model's own.
    """
    width, height = (own if one == 0 else one for one, own in zip(size, family.default_size, strict=True))
    encoded = [family.encode_prompts(prompt, negative_prompt, 1, (width, height)) for prompt in prompts]
    conditionings = {name: Conditioning.cat([one[name] for one in encoded]) for name in encoded[0]}
    shape = (len(seeds), *family.latent_shape(width, height))
    return Cases(conditionings, initial_noise(NoiseSource(seeds), shape).to(family.device), tuple(seeds))


def finals(
    cases: Cases,
    family: Network,
    guidance: Guidance,
    sampler: Sampler,
    levels: Sequence[Level],
    noise_schedule: NoiseSchedule,
    *,
    rows: int = 32,
    cancelled: Callable[[], bool] = lambda: False,
) -> torch.Tensor:
    """Compute the latents (N, C, h, w) that a run ends with.

    Args:
        cases: the pictures.
        family: anything with `predict_raw` and `prediction_type`.
        guidance, sampler, levels, noise_schedule: of the run.
        rows: pictures evaluated at a time.
        cancelled: polled before every evaluation.

    Raises:
        Cancelled: the run was stopped.
    """
    ends = []
    for part in cases.parts(rows):
        denoiser = Denoiser(family, guidance, part.conditionings, cancelled)
        latents = part.noise * noise_schedule.initial_scale(levels[0])
        *_, last = denoise(Run(denoiser, sampler, levels, latents, part.source(), noise_schedule))
        ends.append(last.latents)
    return torch.cat(ends)

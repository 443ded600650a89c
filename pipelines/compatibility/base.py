"""What "made like" decides: the noise, the levels and the sampler of a run; here, as this studio does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from pipelines.core.noise import NoiseSource, initial_noise
from pipelines.core.prediction import Guidance
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level, NoiseSchedule, Schedule
from pipelines.core.types import Request
from pipelines.prompts.rules import PromptRules

__all__ = ["Compatibility", "Here", "HereSettings", "with_setting"]


class Compatibility(Protocol):
    """A compatibility is one method of the table of programs, built with its settings."""

    def check(self, request: Request) -> None:
        """Refuse what the program does not have.

        Raises:
            SettingsError: there is such a thing.
        """

    def noise_schedule(self, noise_schedule: NoiseSchedule, config: Mapping[str, object]) -> NoiseSchedule:
        """Give the model's noise schedule the program's rounding.

        Args:
            noise_schedule: of the model.
            config: of its scheduler, as diffusers has it.
        """

    def levels(self, request: Request, schedule: Schedule, noise_schedule: NoiseSchedule) -> list[Level]:
        """List the levels of the run, descending; a program may make more or fewer steps than were asked for.

        Raises:
            SettingsError: the schedule cannot serve this model or number of steps.
        """

    def sampler(self, request: Request, sampler: Sampler, noise_schedule: NoiseSchedule) -> Sampler:
        """Give the request's sampler the program's formula."""

    def guidance(self, guidance: Guidance) -> Guidance:
        """Give the request's guidance the program's formula."""

    def initial_scale(self, levels: Sequence[Level], noise_schedule: NoiseSchedule) -> float:
        """Find the factor of the unit noise in the first latents."""

    def noise(
        self, request: Request, shape: tuple[int, int, int], levels: Sequence[Level]
    ) -> tuple[torch.Tensor, NoiseSource]:
        """Draw the unit noise (B, C, h, w) that a run starts from, and make the source that goes on from there."""

    def prompt_rules(self) -> PromptRules:
        """Say how the program reads prompts."""

    def one_of_batch(self, request: Request, index: int) -> Request:
        """Find the request that makes picture `index` (from 0) of a batch alone."""


@dataclasses.dataclass(frozen=True)
class HereSettings:
    """What can be chosen where a run follows this studio's own rules."""

    clip_skip: int = setting(
        0,
        "Layer of CLIP that is read: 1 the last, 2 the last but one; 0 the model's own. Stable Diffusion and SDXL.",
        low=0,
        high=12,
        step=1,
    )


class Here:
    """As this studio makes pictures: a generator of the CPU for each, exact levels, the papers' formulas."""

    def __init__(self, settings: HereSettings = HereSettings()):
        self._rules = PromptRules(clip_skip=settings.clip_skip, skipping=frozenset({"sd", "sd2", "sdxl"}))

    def check(self, request: Request) -> None:
        pass

    def noise_schedule(self, noise_schedule: NoiseSchedule, config: Mapping[str, object]) -> NoiseSchedule:
        return noise_schedule

    def levels(self, request: Request, schedule: Schedule, noise_schedule: NoiseSchedule) -> list[Level]:
        return schedule.levels(noise_schedule, request.num_inference_steps)

    def sampler(self, request: Request, sampler: Sampler, noise_schedule: NoiseSchedule) -> Sampler:
        return sampler

    def guidance(self, guidance: Guidance) -> Guidance:
        return guidance

    def initial_scale(self, levels: Sequence[Level], noise_schedule: NoiseSchedule) -> float:
        return noise_schedule.initial_scale(levels[0])

    def noise(
        self, request: Request, shape: tuple[int, int, int], levels: Sequence[Level]
    ) -> tuple[torch.Tensor, NoiseSource]:
        """Picture i of a batch has seed + i; its later noise comes from the same generator, as in diffusers."""
        pictures = range(request.batch_size)
        source = NoiseSource([request.seed + i for i in pictures])
        variation = NoiseSource([request.variation_seed + i for i in pictures])
        whole = (request.batch_size, *shape)
        return initial_noise(source, whole, variation, request.variation_strength), source

    def prompt_rules(self) -> PromptRules:
        return self._rules

    def one_of_batch(self, request: Request, index: int) -> Request:
        varied = {"variation_seed": request.variation_seed + index} if request.variation_strength else {}
        return request.replace(seed=request.seed + index, batch_size=1, **varied)


def with_setting(request: Request, **settings: object) -> Request:
    """Copy a request with settings of its `made_like` changed."""
    made_like = dataclasses.replace(request.made_like, settings={**request.made_like.settings, **settings})
    return request.replace(made_like=made_like)

"""What a guidance may be given of its run before it begins: the levels, further texts, and a judge of estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

from pipelines.core.prediction import Guidance
from pipelines.core.schedule import Level

__all__ = ["Judge", "JudgedGuidance", "LevelledGuidance", "TextedGuidance", "noise_share", "place_of"]


class Judge(Protocol):
    """Looks at estimates of x0 as pictures."""

    def adherence(self, denoised: torch.Tensor, prompt: str) -> torch.Tensor:
        """Return the probability that each estimate (B, C, h, w) shows what a prompt says, (B,), on the CPU."""

    def presence(self, denoised: torch.Tensor, prompt: str) -> torch.Tensor:
        """Return the probability that each object of a prompt is in each estimate, (B, objects), on the CPU."""


@runtime_checkable
class LevelledGuidance(Protocol):
    """A guidance that must know the run's levels."""

    def with_levels(self, levels: Sequence[Level]) -> Guidance:
        """Return the same guidance for a run of these N + 1 levels."""


@runtime_checkable
class TextedGuidance(Protocol):
    """A guidance that evaluates texts beside the prompt and the negative prompt."""

    def further_texts(self, objects: Sequence[str]) -> Mapping[str, str]:
        """Name the texts that are encoded, by conditioning.

        Args:
            objects: of the prompt, as texts of their own; empty where no judge reads it.
        """


@runtime_checkable
class JudgedGuidance(Protocol):
    """A guidance that looks at estimates on the way."""

    def judged_prompts(self, prompt: str) -> Sequence[str]:
        """List the prompts that the judge must be able to read; none where it is not asked."""

    def with_judge(self, judge: Judge, prompt: str) -> Guidance:
        """Return the same guidance with a judge, for a run of this prompt."""


def noise_share(level: Level) -> float:
    """Compute sigma / (alpha + sigma), from 1 of pure noise to 0."""
    return level.sigma / (level.alpha + level.sigma)


def place_of(level: Level, levels: Sequence[Level]) -> int:
    """Count the levels of a run that lie before this one."""
    share = noise_share(level)
    return sum(noise_share(one) > share + 1e-9 for one in levels)

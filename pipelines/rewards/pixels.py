"""The base of rewards that look at pixels alone and can judge any prompt."""

from __future__ import annotations

import abc

import torch

from pipelines.rewards.base import RewardSources, Score

__all__ = ["PixelReward"]


class PixelReward(abc.ABC):
    """Represents a reward that needs neither weights nor the prompt."""

    def check(self, prompt: str, sources: RewardSources) -> None:
        """Accept any prompt."""
        return

    def load(self, prompt: str, sources: RewardSources) -> Score:
        """Return the score itself."""
        return self.score

    @abc.abstractmethod
    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Score pictures (B, 3, H, W) in [0, 1]; returns (B,), float32 on the CPU."""

"""A-STAR: before a step, the latents are moved so that words do not share their places and keep those that they had."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from itertools import combinations

import torch

from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.guidance.word_maps import GRIDS, WordGuidance

__all__ = ["AStar", "AStarSettings", "retention", "segregation"]


@dataclasses.dataclass(frozen=True)
class AStarSettings:
    guidance_scale: float = setting(4.0, "How strongly the picture follows the prompt.", low=0, high=30, step=0.1)
    words: str = setting("", "Words that must not mix, separated by commas; empty for all but the small ones.")
    step_size: float = setting(20.0, "Length of a move, in gradients; 0 for none.", low=0, high=200, step=1)
    share: float = setting(0.5, "Share of the steps that are preceded by a move.", low=0, high=1, step=0.05)
    retention: float = setting(1.0, "Weight of what keeps each word where it was.", low=0, high=10, step=0.1)
    grid: str = setting("quarter", "Side of the attention maps, in parts of the latents'.", choices=GRIDS)


def segregation(maps: torch.Tensor) -> torch.Tensor:
    """Compute how much each two words overlap, the sum over pairs of sum min(A, B) / sum (A + B).

    Args:
        maps: (B, words, h, w), not below 0.

    Returns:
        (B,): 0 of words that share no place, a half for each pair that is equal.

    Source: Agarwal et al., arXiv:2306.14544, attention segregation loss.
    """
    flat = maps.flatten(2)
    pairs = [_overlap(flat[:, first], flat[:, second]) for first, second in combinations(range(flat.shape[1]), 2)]
    return torch.stack(pairs).sum(0) if pairs else flat.sum((1, 2)) * 0


def retention(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Compute how much of each word has left where it was, the sum over words of 1 - sum min(A, M) / sum (A + M).

    Args:
        maps: (B, words, h, w), not below 0.
        masks: of the step before, (B, words, h, w), 0 or 1.

    Returns:
        (B,).

    Source: Agarwal et al., arXiv:2306.14544, attention retention loss.
    """
    return (1 - _overlap(maps.flatten(2), masks.flatten(2))).sum(-1)


def _overlap(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.minimum(first, second).sum(-1) / (first + second).sum(-1).clamp(min=1e-12)


class AStar(WordGuidance):
    """Moves the latents down the gradient of the words' overlap and of what they lost; step size 0 is plain guidance.

    Source: Agarwal et al., A-STAR: Test-time attention segregation and retention for text-to-image synthesis,
        arXiv:2306.14544, section 3.
    Differs: one move a step, of attend-and-excite's length; a word's mask is where its map is above its own mean.
    """

    def __init__(self, settings: AStarSettings = AStarSettings()):
        super().__init__(settings.guidance_scale, settings.words, settings.step_size, settings.share, settings.grid)
        self.retention = settings.retention
        self._masks: torch.Tensor | None = None

    def shift(
        self, latents: torch.Tensor, level: Level, step: int, num_steps: int
    ) -> Generator[Query, Prediction, torch.Tensor]:
        if not self.is_moved(step, num_steps):
            return latents
        look = yield from self.look(latents, level, self._loss)
        self._masks = (look.maps > look.maps.mean((-2, -1), keepdim=True)).to(look.maps)
        return latents - self.size_at(step, num_steps) * look.gradient

    def _loss(self, maps: torch.Tensor) -> torch.Tensor:
        loss = segregation(maps)
        if self._masks is None or not self.retention:
            return loss
        return loss + self.retention * retention(maps, self._masks)

    def shift_evaluations(self, num_steps: int) -> int:
        return int(self.share * num_steps + 1e-9) if self.step_size else 0

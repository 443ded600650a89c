"""Attend-and-excite: before a step, the latents are moved until each word is seen somewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import torch

from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.guidance.word_maps import GRIDS, Look, WordGuidance

__all__ = ["AttendAndExcite", "AttendAndExciteSettings", "neglect"]

_THRESHOLDS = ((0.0, 0.05), (0.2, 0.5), (0.4, 0.8))
"""Shares of the steps, and the attention that each word must have there."""


@dataclasses.dataclass(frozen=True)
class AttendAndExciteSettings:
    guidance_scale: float = setting(4.0, "How strongly the picture follows the prompt.", low=0, high=30, step=0.1)
    words: str = setting("", "Words that must appear, separated by commas; empty for all but the small ones.")
    step_size: float = setting(20.0, "Length of a move, in gradients; 0 for none.", low=0, high=200, step=1)
    share: float = setting(0.5, "Share of the steps that are preceded by a move.", low=0, high=1, step=0.05)
    refinements: int = setting(
        20,
        "Most moves at each of three steps until every word is attended; 0 for one move a step.",
        low=0,
        high=50,
        step=1,
    )
    grid: str = setting("quarter", "Side of the attention maps, in parts of the latents'.", choices=GRIDS)


def neglect(maps: torch.Tensor) -> torch.Tensor:
    """Compute how much the most neglected word lacks, max over words of 1 - max over places, (B,), of (B, words, h, w).

    Source: Chefer et al., arXiv:2301.13826, equation 1.
    """
    return (1 - maps.flatten(2).amax(-1)).clamp(min=0).amax(-1)


class AttendAndExcite(WordGuidance):
    """Moves the latents down the gradient of the most neglected word's lack of attention; step size 0 moves nothing.

    At a fifth and two fifths of the steps, and at the first, it goes on until the word has the attention that the paper
    wants there. Each sample has its own moves.

    Source: Chefer et al., Attend-and-excite: Attention-based semantic guidance for text-to-image diffusion models,
        arXiv:2301.13826, algorithm 1; step size 20, half of the steps, and thresholds 0.05, 0.5 and 0.8 are theirs.
    Differs: the words are all but the small ones where none are named; theirs are chosen by hand.
    """

    def __init__(self, settings: AttendAndExciteSettings = AttendAndExciteSettings()):
        super().__init__(settings.guidance_scale, settings.words, settings.step_size, settings.share, settings.grid)
        self.refinements = settings.refinements

    def shift(
        self, latents: torch.Tensor, level: Level, step: int, num_steps: int
    ) -> Generator[Query, Prediction, torch.Tensor]:
        if not self.is_moved(step, num_steps):
            return latents
        size = self.size_at(step, num_steps)
        look = yield from self.look(latents, level, neglect)
        wanted = _threshold_at(step, num_steps)
        if wanted is not None:
            latents, look = yield from self._refine(latents, level, look, 1 - wanted, size)
        return latents - size * look.gradient

    def _refine(
        self, latents: torch.Tensor, level: Level, look: Look, most: float, size: float
    ) -> Generator[Query, Prediction, tuple[torch.Tensor, Look]]:
        """Move those samples on that lack more than they may, and look once more."""
        moving = look.losses > most
        count = 0
        while count < self.refinements and bool(moving.any()):
            if count:
                look = yield from self.look(latents, level, neglect)
            latents = torch.where(moving.view(-1, 1, 1, 1), latents - size * look.gradient, latents)
            moving = moving & (look.losses > most)
            count += 1
        if count:
            look = yield from self.look(latents, level, neglect)
        return latents, look

    def shift_evaluations(self, num_steps: int) -> int:
        moved = sum(bool(self.step_size) and step < int(self.share * num_steps + 1e-9) for step in range(num_steps))
        refined = sum(_threshold_at(step, num_steps) is not None for step in range(moved))
        return moved + refined * self.refinements


def _threshold_at(step: int, num_steps: int) -> float | None:
    """The attention that every word must have at a step; None where none is asked for."""
    return {round(share * num_steps): least for share, least in _THRESHOLDS}.get(step)

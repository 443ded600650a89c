"""Local blend: the edit is kept to where its words look, or to a drawn mask; elsewhere stands the source."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.inversions.base import SOURCE, TARGET

__all__ = ["LocalBlend", "WordMaps", "blended_rows"]

_LARGEST_SIDE = 16
_THRESHOLD = 0.3
_FROM = 0.2


def blended_rows(latents: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """x = x_src + m * (x - x_src) for every pair of rows (source, edit): (R, C, h, w), mask (1, 1, h, w) bool."""
    pairs = latents.unflatten(0, (-1, 2))
    edited = torch.where(mask, pairs[:, TARGET], pairs[:, SOURCE])
    return torch.stack([pairs[:, SOURCE], edited], dim=1).flatten(0, 1)


class WordMaps:
    """Where the words of both prompts look, added up over layers, heads and steps.

    Of the cross-attention maps it takes the finest with at most 16 places a side, which for Stable Diffusion are
    those of the layers at a quarter of the latents' side.

    Args:
        source, target: positions of the words' tokens in each prompt.
        shape: (h, w) of the latents.

    Source: Hertz et al., Prompt-to-prompt, arXiv:2208.01626, section 4, local editing: threshold 0.3.
    Differs: for latents of other sizes than 64 the layers are found by their resolution.
    """

    def __init__(self, source: tuple[int, ...], target: tuple[int, ...], shape: tuple[int, int]):
        self.source, self.target, self.shape = source, target, shape
        self._sums: dict[tuple[int, int], torch.Tensor] = {}

    def add(self, maps: torch.Tensor) -> None:
        """Maps (2, heads, queries, L) of source and edit."""
        height, width = self.shape
        shrink = round((height * width / maps.shape[2]) ** 0.5)
        side = (-(-height // shrink), -(-width // shrink))
        if max(side) > _LARGEST_SIDE or side[0] * side[1] != maps.shape[2]:
            return
        words = [
            maps[row][..., list(places)].sum(-1).mean(0)
            for row, places in ((SOURCE, self.source), (TARGET, self.target))
        ]
        added = torch.stack(words).reshape(2, 1, *side)
        self._sums[side] = self._sums[side] + added if side in self._sums else added.clone()

    def mask(self) -> torch.Tensor | None:
        """(1, 1, h, w) bool: the union of both prompts' places; None before the first map."""
        if not self._sums:
            return None
        summed = self._sums[max(self._sums)]
        spread = F.interpolate(F.max_pool2d(summed, 3, stride=1, padding=1), self.shape)
        peak = spread.amax(dim=(2, 3), keepdim=True)
        seen = torch.where(peak > 0, spread / peak.clamp_min(1e-12), spread) > _THRESHOLD
        return seen.any(dim=0, keepdim=True)


class LocalBlend:
    """A sampler that puts the source back outside the mask after each step.

    Args:
        inner: the sampler of the rows (source, edit), or of several such pairs.
        mask: (1, 1, h, w) bool, drawn by the person, in force at every step; None without.
        maps: where the words look, in force from a fifth of the steps on; None without.
    """

    def __init__(self, inner: Sampler, mask: torch.Tensor | None = None, maps: WordMaps | None = None):
        self.inner, self.drawn, self.maps = inner, mask, maps

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        moved = yield from self.inner.step(state, level, next_level, context)
        mask = self.drawn
        if self.maps is not None and context.index >= _FROM * context.num_steps:
            seen = self.maps.mask()
            mask = seen if mask is None else mask if seen is None else mask & seen
        if mask is None:
            return moved
        return dataclasses.replace(
            moved, latents=blended_rows(moved.latents, mask), denoised=blended_rows(moved.denoised, mask)
        )

    def nfe(self, num_steps: int) -> int:
        return self.inner.nfe(num_steps)

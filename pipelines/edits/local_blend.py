"""Local blend: the edit is kept to where its words look, or to a drawn mask; elsewhere stands the source."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F

from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.inversions.base import SOURCE, TARGET

__all__ = ["LocalBlend", "WordMaps", "blend_rows"]

_LARGEST_SIDE = 16
_THRESHOLD = 0.3
_FROM = 0.2


def blend_rows(latents: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Compute x_src + m * (x - x_src) for each pair of rows (source, edit): (R, C, h, w), mask (1, 1, h, w) bool."""
    pairs = latents.unflatten(0, (-1, 2))
    edited = torch.where(mask, pairs[:, TARGET], pairs[:, SOURCE])
    return torch.stack([pairs[:, SOURCE], edited], dim=1).flatten(0, 1)


class WordMaps:
    """Says where the words of both prompts look, added up over layers, heads and steps.

    Of the cross-attention maps it takes the finest with at most 16 places a side, which for Stable Diffusion are
    those of the layers at a quarter of the latents' side. A network that has finer ones only, such as SDXL's or a
    transformer's at 1024 pixels, gives means of theirs.

    Args:
        source, target: positions of the words' tokens in each prompt.
        shape: (h, w) of the latents.

    Source: Hertz et al., Prompt-to-prompt, arXiv:2208.01626, section 4, local editing: threshold 0.3.
    Differs: for latents of other sizes than 64 the layers are found by their resolution.
    """

    def __init__(self, source: tuple[int, ...], target: tuple[int, ...], shape: tuple[int, int]):
        self.source, self.target, self.shape = source, target, shape
        self._sums: dict[tuple[int, int], torch.Tensor] = {}
        self._pooled: dict[tuple[int, int], torch.Tensor] = {}

    def add(self, maps: torch.Tensor) -> None:
        """Add maps (2, heads, queries, L) of source and edit."""
        height, width = self.shape
        shrink = 2 ** round(math.log2(height * width / maps.shape[2]) / 2)  # a side that is odd is rounded up
        side = (-(-height // shrink), -(-width // shrink))
        if side[0] * side[1] != maps.shape[2]:
            return
        words = [
            maps[row][..., list(places)].sum(-1).mean(0)
            for row, places in ((SOURCE, self.source), (TARGET, self.target))
        ]
        maps_of_words = torch.stack(words).reshape(2, 1, *side)
        sums = self._sums
        if max(side) > _LARGEST_SIDE:
            times = math.ceil(max(side) / _LARGEST_SIDE)
            maps_of_words = F.avg_pool2d(maps_of_words, times, ceil_mode=True)
            side, sums = (maps_of_words.shape[2], maps_of_words.shape[3]), self._pooled
        sums[side] = sums[side] + maps_of_words if side in sums else maps_of_words.clone()

    def mask(self) -> torch.Tensor | None:
        """Return (1, 1, h, w) bool: the union of both prompts' places; None before the first map."""
        maps = self._sums or self._pooled
        if not maps:
            return None
        sums = maps[max(maps)]
        widened = F.interpolate(F.max_pool2d(sums, 3, stride=1, padding=1), self.shape)
        peak = widened.amax(dim=(2, 3), keepdim=True)
        is_inside = torch.where(peak > 0, widened / peak.clamp_min(1e-12), widened) > _THRESHOLD
        return is_inside.any(dim=0, keepdim=True)


class LocalBlend:
    """Wraps a sampler and puts the source back outside the mask after each step.

    Args:
        inner: the sampler of the rows (source, edit), or of several such pairs.
        mask: (1, 1, h, w) bool, drawn by the person, in force at every step; None without.
        maps: where the words look, in force from a fifth of the steps on; None without.
    """

    def __init__(self, inner: Sampler, mask: torch.Tensor | None = None, maps: WordMaps | None = None):
        self.inner, self.user_mask, self.maps = inner, mask, maps

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        next_state = yield from self.inner.step(state, level, next_level, context)
        mask = self.user_mask
        if self.maps is not None and context.index >= _FROM * context.num_steps:
            map_mask = self.maps.mask()
            mask = map_mask if mask is None else mask if map_mask is None else mask & map_mask
        if mask is None:
            return next_state
        denoised = None if next_state.denoised is None else blend_rows(next_state.denoised, mask)
        return dataclasses.replace(next_state, latents=blend_rows(next_state.latents, mask), denoised=denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)

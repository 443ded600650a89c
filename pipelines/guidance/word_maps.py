"""Where a UNet's attention puts a prompt's words, and latents that are moved to put them better."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F

from pipelines.core.devices import upload
from pipelines.core.errors import PromptError
from pipelines.core.prediction import Guidance, Perturbation, Prediction, Query
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.guidance.attention_watch import AttentionWatch, cross_attentions
from pipelines.guidance.two_branch import TwoBranchGuidance, guide, needs_two_branches

__all__ = ["GRIDS", "Look", "WordGuidance", "WordedGuidance", "choose_words", "needs_word_maps", "word_maps"]

Grid = tuple[int, int]

GRIDS = ("quarter", "half")
"""Sides of the attention maps that are looked at, in parts of the latents'."""

_SMALL = (
    " a an the of and or in on at to with without by from for is are as it its this that left right above below over "
    "under behind front beside between next near two three four five "
)
"""Words that name nothing, between spaces."""


def needs_word_maps(traits: Traits) -> str | None:
    """Say why a model has no attention maps of single words."""
    if traits.family not in ("sd", "sdxl"):
        return "it has no UNet whose attention to single words could be seen. Choose another guidance"
    return needs_two_branches(traits)


@runtime_checkable
class WordedGuidance(Protocol):
    """A guidance that must know where the prompt's words stand.

    Attributes:
        words: that a person chose, separated by commas; empty for all that carry meaning.
    """

    words: str

    def with_places(self, places: Mapping[str, Sequence[int]]) -> Guidance:
        """Return the same guidance for a prompt: word to the positions of its tokens in the text encoder's row."""


def choose_words(words: str, prompt_words: Sequence[str]) -> list[str]:
    """Choose what is looked for: the phrases that were written, or the prompt's words without the small ones.

    Raises:
        PromptError: nothing is left.
    """
    chosen = [one.strip() for one in words.split(",") if one.strip()]
    stripped = (word.strip(".,;:!?").lower() for word in prompt_words)
    chosen = chosen or list(dict.fromkeys(word for word in stripped if word and f" {word} " not in _SMALL))
    if not chosen:
        raise PromptError("The prompt has no word whose attention could be looked at. Name one.")
    return chosen


def word_maps(maps: torch.Tensor, places: Sequence[Sequence[int]]) -> torch.Tensor:
    """Make smoothed maps of words of the mean attention to all tokens.

    Args:
        maps: (B, h, w, L), the mean over layers and heads.
        places: of each word, the positions of its tokens among L; the first and the last position are marks.

    Returns:
        (B, words, h, w): 100 times the attention through softmax over the tokens without the marks, a word's tokens
        averaged, smoothed by a Gaussian of 3 pixels and sigma 0.71: what their code computes where it says 0.5.

    Source: Chefer et al., arXiv:2301.13826, algorithm 1 and its code.
    """
    tokens = (100 * maps[..., 1:-1]).softmax(-1)
    shares = torch.zeros(tokens.shape[-1], len(places))
    for index, one in enumerate(places):
        shares[[place - 1 for place in one], index] = 1 / len(one)
    words = (tokens @ upload(shares, maps.device, maps.dtype)).permute(0, 3, 1, 2)
    line = torch.exp(-(torch.arange(-1.0, 2.0, device=maps.device) ** 2))  # sigma^2 is a half
    kernel = (line[:, None] * line / line.sum() ** 2).to(words.dtype)
    mode = "reflect" if min(words.shape[-2:]) > 1 else "replicate"
    padded = F.pad(words, (1, 1, 1, 1), mode=mode).flatten(0, 1)[:, None]
    return F.conv2d(padded, kernel[None, None])[:, 0].unflatten(0, words.shape[:2])


@dataclasses.dataclass(frozen=True)
class Look:
    """One look at the words' maps.

    Attributes:
        losses: of each sample, (B,).
        gradient: of their sum with respect to the latents, (B, C, h, w).
        maps: of the words, (B, words, h, w), without gradients.
    """

    losses: torch.Tensor
    gradient: torch.Tensor
    maps: torch.Tensor


class WordGuidance(TwoBranchGuidance):
    """Classifier-free guidance that moves the latents down the gradient of a loss of the words' maps before a step.

    Each look is an evaluation of the prompt's branch, and a pass back through the network, which no count of
    evaluations has.
    """

    def __init__(self, guidance_scale: float, words: str, step_size: float, share: float, grid: str):
        super().__init__(guidance_scale)
        self.words, self.step_size, self.share, self.grid = words, step_size, share, grid
        self.patch: Perturbation | None = AttentionWatch(cross_attentions, lambda *_: None)
        self._places: tuple[tuple[int, ...], ...] = ()

    def with_places(self, places: Mapping[str, Sequence[int]]) -> Guidance:
        bound = copy.copy(self)
        bound._places = tuple(tuple(one) for one in places.values())
        return bound

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        return guide(negative.raw, positive.raw, self.guidance_scale)

    def is_moved(self, step: int, num_steps: int) -> bool:
        """Whether the latents are moved before a step."""
        return bool(self.step_size and self._places) and step < math.floor(self.share * num_steps + 1e-9)

    def size_at(self, step: int, num_steps: int) -> float:
        """Compute a move's length in gradients: the step size times the square root of a line from 1 to a half."""
        return self.step_size * math.sqrt(1 - 0.5 * step / max(num_steps - 1, 1))

    def look(
        self, latents: torch.Tensor, level: Level, loss: Callable[[torch.Tensor], torch.Tensor]
    ) -> Generator[Query, Prediction, Look]:
        """Evaluate the prompt's branch and differentiate a loss.

        Args:
            latents: (B, C, h, w).
            level: theirs.
            loss: of the words' maps (B, words, h, w), (B,).
        """
        latents = latents.detach().clone().requires_grad_(True)
        seen: dict[torch.nn.Module, tuple[Grid, list[torch.Tensor]]] = {}

        def see(layer: torch.nn.Module, maps: torch.Tensor, grid: Grid) -> None:
            seen.setdefault(layer, (grid, []))[1].append(maps)

        watch = AttentionWatch(cross_attentions, see)
        yield Query(latents, level, branches=("positive",), patch=watch, role="look", is_differentiable=True)
        with torch.enable_grad():
            maps = self._average(list(seen.values()), latents)
            words = word_maps(maps, self._places)
            losses = loss(words)
            (gradient,) = torch.autograd.grad(losses.sum(), latents)
        return Look(losses.detach(), gradient, words.detach())

    def _average(self, seen: Sequence[tuple[Grid, Sequence[torch.Tensor]]], latents: torch.Tensor) -> torch.Tensor:
        """The mean (B, h, w, L) of the maps of all layers on the grid that is nearest to what is wanted."""
        wanted = latents.shape[-2] / {"quarter": 4, "half": 2}[self.grid]
        chosen = min((grid for grid, _ in seen), key=lambda grid: (abs(math.log(grid[0] / wanted)), -grid[0]))
        maps = torch.cat([torch.cat(list(parts)) for grid, parts in seen if grid == chosen], dim=1)
        # A composed prompt has further rows: the first ones are those of its first part.
        return maps[: len(latents)].mean(1).unflatten(1, chosen)

"""What a search is: an outer driver of the loop, which spends a budget of evaluations on pictures and judges them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from pipelines.core.errors import MethodFitError
from pipelines.core.gradients import no_grad
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.core.types import Request
from pipelines.samplers import SAMPLERS

__all__ = ["BACKWARD", "Candidate", "Judged", "Problem", "RunBuilder", "Search", "SearchSettings", "Start"]

BACKWARD = 2
"""Evaluations that a backward pass through the network counts as: it has twice the multiply-adds of a forward one."""

_FRESH = 2**40
"""Added to the request's seed where a search draws noise of its own, apart from that of pictures."""


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings that every search has."""

    budget: int = setting(
        400,
        "Evaluations of the network that it may use, every branch of the guidance counted.",
        low=1,
        high=100_000,
        step=1,
        label="Budget in evaluations",
    )
    stopped_after: int = setting(
        0,
        "Judged pictures after which it ends early, as when it was stopped; 0 for the whole budget.",
        low=0,
        high=100_000,
        step=1,
        label="Stopped after",
    )


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A picture that a search has judged.

    Attributes:
        name: what tells it from the others, e.g. "seed 7".
        image: (H, W, 3), uint8.
        reward: the larger the better.
        finished: whether its run has ended; else it is the estimate of x0 part of the way.
        seed: that makes it without the search; None where no seed alone does.
    """

    name: str
    image: np.ndarray
    reward: float
    finished: bool = True
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Judged:
    """Pictures and their rewards.

    Attributes:
        images: (B, 3, H, W) in [0, 1], on the CPU.
        rewards: (B,), float32 on the CPU.
    """

    images: torch.Tensor
    rewards: torch.Tensor

    def name(self, names: Sequence[str], finished: bool = True) -> list[Candidate]:
        """Make candidates of them, which no seed alone makes."""
        pixels = (self.images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        rows = zip(names, pixels, self.rewards.tolist(), strict=True)
        return [Candidate(name, image, reward, finished) for name, image, reward in rows]

    def name_by_seed(self, request: Request, first: int) -> list[Candidate]:
        """Make candidates of finished pictures `first` and on of the request.

        A variation's second noise has a seed of its own, so that the first one's does not make the picture alone.
        """
        seeds = [request.seed + first + i for i in range(len(self.rewards))]
        candidates = self.name([f"seed {seed}" for seed in seeds])
        if request.variation_strength:
            return candidates
        return [dataclasses.replace(one, seed=seed) for one, seed in zip(candidates, seeds, strict=True)]


Start = tuple["torch.Tensor", NoiseSource]
"""Unit normal noise (B, C, h, w), float32, and the source that goes on from there."""


class RunBuilder(Protocol):
    """Describes what makes a run of the request's methods from noise, and what pictures become of latents."""

    def draw(self, first: int, count: int) -> Start:
        """Draw the noise of pictures `first` to `first + count` of the request, as its batch would have it."""

    def build(self, start: Start) -> Run:
        """Build the run from this noise."""

    def for_prompt(self, prompt: str) -> RunBuilder:
        """Return a builder of the same request with another prompt, whose pictures are scored by that one."""

    def encode_result(self, name: str) -> torch.Tensor:
        """Encode a result of the gallery into clean latents (1, C, h, w) of the request's size.

        Raises:
            SettingsError: there is none of this name.
        """

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode clean latents into pictures (B, 3, H, W) in [0, 1] on the CPU."""

    def decode_with_gradients(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode as `decode` does, with a gradient.

        Raises:
            MethodFitError: this model's decoder has none.
        """

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Score pictures (B, 3, H, W); returns (B,), float32 on the CPU."""


class Problem:
    """A problem is one search's: runs, pictures, rewards, and what of the budget is left.

    Args:
        builder: of runs, pictures and rewards.
        request: with its seed; its search is not read.
        levels: N + 1 noise levels of a run.
        budget: evaluations.
        cost: evaluations of one whole picture, at most.
        branches: evaluations of one answer to the sampler, at most.
    """

    def __init__(
        self,
        builder: RunBuilder,
        request: Request,
        levels: Sequence[Level],
        budget: int,
        cost: float,
        branches: int,
    ):
        self.builder, self.request, self.levels = builder, request, levels
        self.budget, self.cost, self.branches = budget, cost, branches
        self._spent: list[Callable[[], float]] = []
        self._drawn = 0

    @property
    def num_steps(self) -> int:
        """Steps of a run."""
        return len(self.levels) - 1

    def price(self, steps: int) -> float:
        """Compute the evaluations of so many steps of the request's sampler, at most."""
        return self.branches * SAMPLERS.build(self.request.sampler).nfe(steps)

    @property
    def spent(self) -> float:
        """Evaluations so far, of all pictures together."""
        return sum(count() for count in self._spent)

    @property
    def left(self) -> float:
        """Evaluations that are left of the budget."""
        return self.budget - self.spent

    def affordable(self, cost: float | None = None) -> int:
        """Count the pictures, or parts of `cost` evaluations, that the rest of the budget pays for."""
        return max(0, int((self.left + 1e-6) / (self.cost if cost is None else cost)))

    def run(self, start: Start) -> Run:
        """Build the run from noise, its evaluations counted."""
        run = self.builder.build(start)
        rows = len(run.latents)
        self._spent.append(lambda: run.denoiser.evaluations * rows)
        return run

    def for_prompt(self, prompt: str) -> Problem:
        """Return the same problem with another prompt; what it spends is of the same budget."""
        other = copy.copy(self)  # with the list of what was spent in common
        other.builder = self.builder.for_prompt(prompt)
        return other

    def resume(self, latents: torch.Tensor, index: int, source: NoiseSource) -> Run:
        """Build the rest of a run from latents (B, C, h, w) at level `index`; its evaluations are counted."""
        run = self.run((torch.zeros_like(latents, device="cpu"), source))
        return dataclasses.replace(run, latents=latents, levels=self.levels[index:], begin=None, first=index)

    def count(self, evaluations: float) -> None:
        """Count evaluations that no denoiser has counted, such as backward passes."""
        self._spent.append(lambda: evaluations)

    @staticmethod
    def finish(run: Run) -> torch.Tensor:
        """Walk a run to its end; returns the latents.

        Raises:
            Cancelled: the run was stopped.
        """
        *_, step = denoise(run)
        return step.latents

    @no_grad
    def judge(self, latents: torch.Tensor) -> Judged:
        """Decode clean latents, or estimates of them, (B, C, h, w), and score them."""
        return self.judge_images(self.builder.decode(latents))

    @no_grad
    def judge_images(self, images: torch.Tensor) -> Judged:
        """Score pictures (B, 3, H, W) as they are shown, within [0, 1]."""
        images = images.detach().float().cpu().clamp(0, 1)
        return Judged(images, self.builder.score(images).float().cpu())

    def fresh(self, count: int) -> NoiseSource:
        """Make a source of noise for the search's own use, independent of that of pictures and of earlier ones."""
        seeds = [self.request.seed + _FRESH + self._drawn + i for i in range(count)]
        self._drawn += count
        return NoiseSource(seeds)

    def gradient(self, value: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Compute the gradient of a sum of rewards, a scalar, with respect to latents.

        Raises:
            MethodFitError: there is none, or it is not finite.
        """
        if not value.requires_grad:
            raise MethodFitError(
                "No gradient reaches the noise through this model, as with packed weights: choose another search."
            )
        (gradient,) = torch.autograd.grad(value, latents)
        if not bool(gradient.isfinite().all()):
            raise MethodFitError("The gradient of the reward is not finite. Choose another search, or --dtype fp32.")
        return gradient


class Search(Protocol):
    """A search is one method of the search table, built with its settings."""

    @property
    def settings(self) -> SearchSettings:
        """Return what it was built with."""

    def check(self, request: Request) -> None:
        """Refuse a request whose other choices contradict the search.

        Raises:
            SettingsError: they do, and what to do.
        """

    def least(self, cost: float, num_steps: int) -> float:
        """Compute the evaluations without which it finishes no picture.

        Args:
            cost: of one picture.
            num_steps: of its run.
        """

    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        """Yield the population as it evolves, each time the candidates that were judged since.

        Raises:
            Cancelled: it was stopped.
        """

"""Zero-order search: neighbors of the best noise so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch

from pipelines.core.gradients import no_grad
from pipelines.core.registry import setting
from pipelines.core.types import Request
from pipelines.search.base import Candidate, Problem, SearchSettings

__all__ = ["ZeroOrder", "ZeroOrderSettings", "neighbor"]


@dataclasses.dataclass(frozen=True)
class ZeroOrderSettings(SearchSettings):
    """Settings of the search."""

    neighbors: int = setting(4, "Neighbors of the best noise in each round.", low=1, high=16, step=1)
    distance: float = setting(
        0.5, "How far a neighbor is: 0 the same noise, large values a new one.", low=0, high=10, step=0.05
    )


def neighbor(noise: torch.Tensor, direction: torch.Tensor, distance: float) -> torch.Tensor:
    """Compute (z + s u) / sqrt(1 + s^2), unit normal where z and u are."""
    return (noise + distance * direction) / math.sqrt(1 + distance**2)


class ZeroOrder:
    """Zero-order search: the pivot moves to the best of its neighbors where that is better.

    Source: Ma et al., arXiv:2501.09732.
    Differs: neighbors are drawn in all directions at a root-mean-square distance, and the pivot itself competes.
    """

    def __init__(self, settings: ZeroOrderSettings):
        self.settings = settings

    def check(self, request: Request) -> None:
        """Accept any request."""

    def least(self, cost: float, num_steps: int) -> float:
        return cost

    @no_grad
    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        pivot, source = problem.builder.draw(0, 1)
        later = source.clone()  # what a stochastic sampler draws is the same for all, so that x_T alone differs
        judged = problem.judge(problem.finish(problem.run((pivot, source))))
        best = float(judged.rewards[0])
        yield judged.name_by_seed(problem.request, 0)
        turn = 0
        while count := min(self.settings.neighbors, problem.affordable()):
            turn += 1
            directions = problem.fresh(count)(pivot.expand(count, -1, -1, -1))
            noise = neighbor(pivot, directions, self.settings.distance)
            judged = problem.judge(problem.finish(problem.run((noise, later.select([0] * count)))))
            place = int(judged.rewards.argmax())
            if float(judged.rewards[place]) > best:
                best, pivot = float(judged.rewards[place]), noise[place : place + 1]
            yield judged.name([f"round {turn}, neighbor {i + 1}" for i in range(count)])

"""Optimal boundary noise: one noise that is good for several prompts, to be kept for all that are like them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from pipelines.core.gradients import no_grad
from pipelines.core.registry import setting
from pipelines.core.types import Request
from pipelines.prompts.lists import split_lines
from pipelines.search.base import Candidate, Judged, Problem, SearchSettings

__all__ = ["BoundaryNoise", "BoundarySettings"]


@dataclasses.dataclass(frozen=True)
class BoundarySettings(SearchSettings):
    """Settings of the search."""

    prompts: str = setting("", "Further prompts that each noise is judged by, with semicolons; empty for Best of N.")


class BoundaryNoise:
    """Chooses the seed whose pictures of several prompts have the largest mean reward; shows the request's own.

    The seed serves for any further prompt afterwards, at no cost: a noise that suits a model suits it for many prompts.
    Without further prompts it is Best of N, one picture at a time.

    Source: the optimal boundary condition of Ma et al., arXiv:2305.15357 (image-conditioned super-resolution): x_T is
        chosen once on reference pairs and kept for all inputs.
    Differs: prompts in the place of pairs of pictures, and a reward in the place of the distance to a reference.
    """

    def __init__(self, settings: BoundarySettings):
        self.settings = settings
        self.prompts: Sequence[str] = split_lines(settings.prompts)

    def check(self, request: Request) -> None:
        """Accept any request."""

    def least(self, cost: float, num_steps: int) -> float:
        return cost * (1 + len(self.prompts))

    @no_grad
    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        others = [problem.for_prompt(prompt) for prompt in self.prompts]
        first = 0
        while problem.affordable(self.least(problem.cost, problem.num_steps)):
            judged = [one.judge(one.finish(one.run(one.builder.draw(first, 1)))) for one in (problem, *others)]
            mean = torch.stack([one.rewards for one in judged]).mean(0) if others else judged[0].rewards
            yield Judged(judged[0].images, mean).name_by_seed(problem.request, first)
            first += 1

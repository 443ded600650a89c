"""Best of N: as many pictures as the budget pays for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pipelines.core.gradients import no_grad
from pipelines.core.registry import setting
from pipelines.core.types import Request
from pipelines.search.base import Candidate, Problem, SearchSettings

__all__ = ["RandomSearch", "RandomSettings"]


@dataclasses.dataclass(frozen=True)
class RandomSettings(SearchSettings):
    """Settings of the search."""

    together: int = setting(4, "Pictures that are made at once.", low=1, high=16, step=1)


class RandomSearch:
    """Random search: picture i has the seed plus i, as in a batch, so the best one's seed alone makes it again.

    Source: Ma et al., Inference-time scaling for diffusion models beyond scaling denoising steps, arXiv:2501.09732.
    """

    def __init__(self, settings: RandomSettings):
        self.settings = settings

    def check(self, request: Request) -> None:
        """Accept any request."""

    def least(self, cost: float, num_steps: int) -> float:
        return cost

    @no_grad
    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        first = 0
        while count := min(self.settings.together, problem.affordable()):
            latents = problem.finish(problem.run(problem.builder.draw(first, count)))
            yield problem.judge(latents).name_by_seed(problem.request, first)
            first += count

"""Latent beam search: the latents whose future looks best go on, each in several ways."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise

from pipelines.core.gradients import no_grad
from pipelines.core.loop import Run
from pipelines.core.registry import setting
from pipelines.core.sampler import State, interpolate
from pipelines.core.types import Request, Step
from pipelines.search.base import Candidate, Judged, Problem, SearchSettings
from pipelines.search.particles import require_stochastic, require_uncached_rows, select_rows, steer

__all__ = ["BeamSearch", "BeamSettings", "keep_beams"]


@dataclasses.dataclass(frozen=True)
class BeamSettings(SearchSettings):
    """Settings of the search."""

    beams: int = setting(2, "Latents that are kept.", low=1, high=8, step=1)
    branches: int = setting(2, "Ways on from each.", low=1, high=8, step=1)
    lookahead: int = setting(
        1,
        "Deterministic steps from each way on to the estimate that is judged; 0 takes what is known.",
        low=0,
        high=8,
        step=1,
    )
    every: int = setting(4, "Steps between two choices.", low=1, high=50, step=1)


def keep_beams(rewards: Sequence[float], beams: int) -> list[int]:
    """Choose the best beams and let each take as many places as there are rows to a beam.

    Args:
        rewards: of B x K rows.
        beams: B.

    Returns:
        For each place the row that takes it; where each row is a beam, as they stand.
    """
    if len(rewards) == beams:
        return list(range(beams))
    best = sorted(range(len(rewards)), key=lambda row: (-rewards[row], row))[:beams]
    return [row for row in sorted(best) for _ in range(len(rewards) // beams)]


class _Beams:
    """Steers one run: every few steps the best beams take the places of the others."""

    def __init__(self, problem: Problem, settings: BeamSettings, run: Run):
        self.problem, self.settings, self.run = problem, settings, run
        self.judged: list[Candidate] = []

    def __call__(self, state: State, step: Step) -> State:
        done = step.index + 1
        if self.settings.branches == 1 or done == step.num_steps or done % self.settings.every:
            return state
        judged = self._look_ahead(step)
        self.judged = judged.name([f"way {i + 1}" for i in range(len(judged.rewards))], finished=False)
        return select_rows(state, self.run, keep_beams(judged.rewards.tolist(), self.settings.beams))

    def _look_ahead(self, step: Step) -> Judged:
        """Judge what first-order steps over the rest of the schedule, as few as wanted, lead to."""
        index = len(self.run.levels) - 1 - (step.num_steps - step.index - 1)
        ahead = self.settings.lookahead
        if not ahead:
            return self.problem.judge(step.denoised)
        rest, denoiser = self.run.levels[index:], self.run.denoiser
        places = [round(i * (len(rest) - 1) / min(ahead, len(rest) - 1)) for i in range(min(ahead, len(rest) - 1) + 1)]
        latents, at, guidance = step.latents, denoiser.step, denoiser.guidance
        denoiser.guidance = copy.copy(guidance)  # what is only looked at, the run does not remember
        for place, following in pairwise(places):
            latents = interpolate(denoiser.predict(latents, rest[place]), rest[following])
        denoiser.step, denoiser.guidance = at, guidance
        return self.problem.judge(latents)


class BeamSearch:
    """Diffusion latent beam search, of pictures: the best way of each run, and runs of further seeds.

    Source: Oshima et al., Inference-time text-to-video alignment with diffusion latent beam search, arXiv:2501.19252.
    Differs: pictures in place of clips; the choice is made every few steps rather than at each; each run begins with
    a noise for every way, so that the first choice is among seeds.
    """

    def __init__(self, settings: BeamSettings):
        self.settings = settings

    def check(self, request: Request) -> None:
        if self.settings.branches > 1:
            require_stochastic(request, "Latent beam search")
            require_uncached_rows(request, "Latent beam search")

    def least(self, cost: float, num_steps: int) -> float:
        settings = self.settings
        choices = 0 if settings.branches == 1 else (num_steps - 1) // settings.every
        return settings.beams * settings.branches * (cost + choices * settings.lookahead * cost / num_steps)

    @no_grad
    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        settings, first = self.settings, 0
        while problem.affordable(self.least(problem.cost, problem.num_steps)):
            count = settings.beams * settings.branches
            run = problem.run(problem.builder.draw(first, count))
            beams = _Beams(problem, settings, run)
            latents = yield from steer(run, beams)
            names = [f"run of seed {problem.request.seed + first}, way {i + 1}" for i in range(len(latents))]
            yield problem.judge(latents).name(names)
            first += count

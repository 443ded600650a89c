"""ReNO: the initial noise of a one-step or few-step model, improved by the reward's gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import pairwise

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.loop import Run
from pipelines.core.sampler import State, StepContext
from pipelines.core.types import Request
from pipelines.search.ascent import AscentSettings, ascend, require_ascent
from pipelines.search.base import BACKWARD, Candidate, Judged, Problem

__all__ = ["MOST_STEPS", "Reno", "RenoSettings", "finish_with_gradients"]

MOST_STEPS = 8
"""Of a run through all of whose evaluations a gradient is kept in memory at once."""


@dataclasses.dataclass(frozen=True)
class RenoSettings(AscentSettings):
    """Settings of the search."""


def finish_with_gradients(run: Run) -> torch.Tensor:
    """Walk a run to its end and keep what a gradient needs; returns the latents.

    Raises:
        Cancelled: the run was stopped.
    """
    state, steps = State(run.latents), len(run.levels) - 1
    run.denoiser.num_steps = steps
    for index, (level, next_level) in enumerate(pairwise(run.levels)):
        run.denoiser.step = index
        stepping = run.sampler.step(state, level, next_level, StepContext(index, steps, run.noise, run.noise_schedule))
        query = next(stepping)
        while True:
            try:
                query = stepping.send(run.denoiser.answer(query))
            except StopIteration as end:
                state = end.value
                break
    return state.latents


class Reno:
    """Reward-based noise optimization: gradient through reward, decoder and the few evaluations of a run.

    Source: Eyring et al., ReNO: enhancing one-step text-to-image models through reward-based noise optimization,
    arXiv:2406.04312.
    Differs: one reward, not a weighted sum of four. A backward pass counts as two evaluations.
    """

    def __init__(self, settings: RenoSettings):
        self.settings = settings

    def check(self, request: Request) -> None:
        require_ascent(request, "ReNO")
        if request.num_inference_steps > MOST_STEPS:
            raise SettingsError(
                f"ReNO keeps a gradient through the whole run, at most {MOST_STEPS} steps, and this one has "
                f"{request.num_inference_steps}. Choose fewer with a few-step model, or the search AdjointDPM."
            )

    def least(self, cost: float, num_steps: int) -> float:
        return (1 + BACKWARD) * cost

    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        def gradient(noise: torch.Tensor) -> tuple[torch.Tensor, Judged]:
            with torch.enable_grad():
                noise = noise.detach().requires_grad_(True)
                _, source = problem.builder.draw(0, 1)
                run = problem.run((noise, source))
                images = problem.builder.decode_with_gradients(finish_with_gradients(run))
                rewards = problem.builder.score(images)
                slope = problem.gradient(rewards.sum(), noise)
            problem.count(BACKWARD * run.denoiser.evaluations)
            return slope.detach(), problem.judge_images(images)

        return ascend(problem, self.settings, gradient, self.least(problem.cost, problem.num_steps))

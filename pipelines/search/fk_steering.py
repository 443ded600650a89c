"""Feynman-Kac steering: particles that are drawn again by their rewards on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from pipelines.core.gradients import no_grad
from pipelines.core.loop import Run
from pipelines.core.registry import setting
from pipelines.core.sampler import State
from pipelines.core.types import Request, Step
from pipelines.search.base import Candidate, Problem, SearchSettings
from pipelines.search.particles import require_order, require_stochastic, require_uncached_rows, select_rows, steer

__all__ = ["FkSettings", "FkSteering", "log_potentials", "resample"]

MAX, SUM, DIFFERENCE = "max", "sum", "difference"


@dataclasses.dataclass(frozen=True)
class FkSettings(SearchSettings):
    """Settings of the search."""

    particles: int = setting(4, "Pictures that go side by side.", low=1, high=16, step=1)
    strength: float = setting(10.0, "Lambda: how much a better reward counts.", low=0, high=1000, step=0.5)
    potential: str = setting(MAX, "What of the rewards so far counts.", choices=(MAX, SUM, DIFFERENCE))
    every: float = setting(0.2, "Share of the steps between two drawings.", low=0.01, high=1, step=0.01)
    first: float = setting(0.2, "Share of the steps before the first.", low=0, high=1, step=0.01)
    last: float = setting(0.8, "Share of the steps after which none is.", low=0, high=1, step=0.01)


def log_potentials(
    rewards: torch.Tensor, running: torch.Tensor, strength: float, potential: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute ln G of particles, and what of their rewards is remembered.

    Args:
        rewards: r(x0_hat) now, (K,).
        running: what was remembered: the largest, the sum, or the last; (K,).
        strength: lambda.
        potential: which.

    Source: Singhal et al., arXiv:2501.06848: max, sum and difference.
    """
    if potential == MAX:
        running = torch.maximum(running, rewards)
        return strength * running, running
    if potential == SUM:
        running = running + rewards
        return strength * running, running
    return strength * (rewards - running), rewards


def resample(log_weights: torch.Tensor, draw: torch.Tensor) -> list[int]:
    """Draw K particles in proportion to their weights where few carry them; else each stays.

    Args:
        log_weights: ln w, (K,).
        draw: uniform in [0, 1), one number.

    Returns:
        For each place the particle that takes it. As they stand where the effective sample size is K / 2 or more;
        systematic resampling otherwise, in which particle i takes floor or ceil of K w_i places.
    """
    count = len(log_weights)
    weights = log_weights.double().softmax(dim=0)
    if float(1 / weights.square().sum()) >= count / 2:
        return list(range(count))
    places = (torch.arange(count, dtype=torch.float64) + draw.double()) / count
    return [
        int(row)
        for row in torch.searchsorted(weights.cumsum(0).clamp_max(1.0), places, right=True).clamp_max(count - 1)
    ]


class _Particles:
    """Steers one run: between two steps it weighs its samples, and lets the better take the place of the worse."""

    def __init__(self, problem: Problem, settings: FkSettings, run: Run, generator: torch.Generator):
        self.problem, self.settings, self.run, self.generator = problem, settings, run, generator
        count = len(run.latents)
        self.running = torch.full((count,), -torch.inf) if settings.potential == MAX else torch.zeros(count)
        self.log_weights = torch.zeros(count)
        self.judged: list[Candidate] = []

    def __call__(self, state: State, step: Step) -> State:
        if not self._is_due(step):
            return state
        judged = self.problem.judge(step.denoised)
        count = len(judged.rewards)
        self.judged = judged.name([f"particle {i + 1}" for i in range(count)], finished=False)
        gain, self.running = log_potentials(
            judged.rewards, self.running, self.settings.strength, self.settings.potential
        )
        self.log_weights = self.log_weights + gain
        rows = resample(self.log_weights, torch.rand((), generator=self.generator))
        if rows != list(range(count)):
            self.running, self.log_weights = self.running[rows], torch.zeros(count)
        return select_rows(state, self.run, rows)

    def _is_due(self, step: Step) -> bool:
        done, steps = step.index + 1, step.num_steps
        first, last = round(self.settings.first * steps), round(self.settings.last * steps)
        every = max(1, round(self.settings.every * steps))
        return done < steps and first <= done <= last and (done - first) % every == 0


class FkSteering:
    """Feynman-Kac steering: the best particle of each run; further runs, of further seeds, as the budget allows.

    Source: Singhal et al., A general framework for inference-time scaling and steering of diffusion models,
    arXiv:2501.06848.
    Differs: resampling is systematic, and only where the effective sample size is below K / 2; until then weights
    accumulate. The last step's potential, which corrects the product, is left out: the best is chosen, not drawn.
    """

    def __init__(self, settings: FkSettings):
        self.settings = settings

    def check(self, request: Request) -> None:
        require_order(self.settings.first, self.settings.last, "FK steering")
        require_stochastic(request, "FK steering")
        require_uncached_rows(request, "FK steering")

    def least(self, cost: float, num_steps: int) -> float:
        return cost * self.settings.particles

    @no_grad
    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        count, first = self.settings.particles, 0
        generator = torch.Generator().manual_seed(problem.request.seed % 2**63)
        while problem.affordable(problem.cost * count):
            run = problem.run(problem.builder.draw(first, count))
            particles = _Particles(problem, self.settings, run, generator)
            latents = yield from steer(run, particles)
            names = [f"run of seed {problem.request.seed + first}, particle {i + 1}" for i in range(count)]
            yield problem.judge(latents).name(names)
            first += count

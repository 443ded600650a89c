"""Doob's h-transform without gradients: noise is led towards continuations that were rewarded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from pipelines.core.gradients import no_grad
from pipelines.core.loop import Run
from pipelines.core.noise import NoiseSource
from pipelines.core.registry import setting
from pipelines.core.sampler import State
from pipelines.core.types import Request, Step
from pipelines.samplers.ddim import fresh_noise
from pipelines.search.base import Candidate, Problem, SearchSettings
from pipelines.search.particles import require_order, require_stochastic, require_uncached_rows, steer
from pipelines.search.paths import require_plain_start

__all__ = ["Doit", "DoitSettings", "drift"]


@dataclasses.dataclass(frozen=True)
class DoitSettings(SearchSettings):
    """Settings of the search."""

    continuations: int = setting(2, "Continuations that are tried at each step.", low=1, high=16, step=1)
    strength: float = setting(10.0, "How much a better reward counts.", low=0, high=1000, step=0.5)
    scale: float = setting(1.0, "Of the drift: 0 leaves the run alone.", low=0, high=10, step=0.1)
    first: float = setting(0.2, "Share of the steps before the first drift.", low=0, high=1, step=0.01)
    last: float = setting(0.5, "Share of the steps after which there is none.", low=0, high=1, step=0.01)


def drift(noise: torch.Tensor, rewards: torch.Tensor, strength: float) -> torch.Tensor:
    """Estimate s grad ln h, h = E exp(strength r), of a Gaussian step of standard deviation s.

    By the score of the Gaussian, grad h = E[exp(strength r) n] / s, and ln h's is that over h.

    Args:
        noise: n of each continuation, (M, C, h, w).
        rewards: of each, (M,).
        strength: of a reward.

    Returns:
        (C, h, w), sum of (w_m - 1/M) n_m, w the softmax: exactly zero where all rewards are equal, which takes the
        mean of the drawn n out as a control variate.
    """
    weights = (strength * rewards.double()).softmax(dim=0)
    shares = weights - 1 / len(weights)
    if float(rewards.max() - rewards.min()) == 0:
        shares = torch.zeros_like(shares)
    return torch.einsum("m,mchw->chw", shares.to(noise), noise)


class _Drift:
    """Steers one run of one picture: adds the drift to what its stochastic sampler made of a step."""

    def __init__(self, problem: Problem, settings: DoitSettings, run: Run):
        self.problem, self.settings = problem, settings
        self.before = run.latents
        self.judged: list[Candidate] = []

    def __call__(self, state: State, step: Step) -> State:
        before, self.before = self.before, state.latents
        done, steps, settings = step.index + 1, step.num_steps, self.settings
        is_due = round(settings.first * steps) <= done <= round(settings.last * steps) and done < steps
        spread = fresh_noise(step.level, step.next_level, 1.0)
        if not is_due or not settings.scale or spread == 0 or step.level.sigma == 0:
            return state
        count, level, after = settings.continuations, step.level, step.next_level
        source = self.problem.fresh(count)
        noise = source(state.latents.expand(count, -1, -1, -1))
        rest = (before - level.alpha * step.denoised) / level.sigma
        mean = after.alpha * step.denoised + (max(0.0, after.sigma**2 - spread**2)) ** 0.5 * rest
        judged = self.problem.judge(self._estimate(mean + spread * noise, done, source))
        self.judged = judged.name([f"continuation {i + 1}" for i in range(count)], finished=False)
        self.before = state.latents + settings.scale * spread * drift(noise, judged.rewards, settings.strength)
        return dataclasses.replace(state, latents=self.before)

    def _estimate(self, latents: torch.Tensor, index: int, source: NoiseSource) -> torch.Tensor:
        run = self.problem.resume(latents, index, source)
        run.denoiser.step, run.denoiser.num_steps = index, self.problem.num_steps
        return run.denoiser.predict(latents, self.problem.levels[index]).denoised


class Doit:
    """DOIT: a drift from rewards of simulated continuations; the best of the runs that the budget pays for.

    Source: Zhu et al., Training-free adaptation of diffusion models via Doob's h-transform, arXiv:2602.16198.
    Differs: written from Doob's transform, grad ln E exp(strength r), not from their code; a continuation is one step
    and the network's estimate of x0 there; the drift is added to any stochastic sampler's step.
    """

    def __init__(self, settings: DoitSettings):
        self.settings = settings

    def check(self, request: Request) -> None:
        require_order(self.settings.first, self.settings.last, "DOIT")
        require_stochastic(request, "DOIT")
        require_uncached_rows(request, "DOIT")
        require_plain_start(request, "DOIT")

    def least(self, cost: float, num_steps: int) -> float:
        settings = self.settings
        steps = max(0, round(settings.last * num_steps) - max(1, round(settings.first * num_steps)) + 1)
        return cost + (steps * settings.continuations * cost / num_steps if settings.scale else 0)

    @no_grad
    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        first = 0
        while problem.affordable(self.least(problem.cost, problem.num_steps)):
            run = problem.run(problem.builder.draw(first, 1))
            steering = _Drift(problem, self.settings, run)
            latents = yield from steer(run, steering)
            yield problem.judge(latents).name([f"run of seed {problem.request.seed + first}"])
            first += 1

"""Rollover budget forcing: a flow model samples its SDE, and each step ends at the first improvement."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.gradients import no_grad
from pipelines.core.loop import Run
from pipelines.core.prediction import Prediction
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.core.types import Request
from pipelines.search.base import Candidate, Judged, Problem, SearchSettings
from pipelines.search.particles import require_uncached_rows
from pipelines.search.paths import require_plain_start, require_unshifted

__all__ = ["Rollover", "RolloverSettings", "fresh_share", "sde_step"]

VP, LINEAR = "variance-preserving", "linear"


@dataclasses.dataclass(frozen=True)
class RolloverSettings(SearchSettings):
    """Settings of the search."""

    diffusion: float = setting(
        3.0, "g of the SDE at full noise: fresh noise in each step; it falls as t².", low=0, high=10, step=0.1
    )
    path: str = setting(VP, "The path on which the noise is added.", choices=(VP, LINEAR))


def fresh_share(level: Level, next_level: Level, diffusion: float, path: str) -> float:
    """Compute the standard deviation of a step's fresh noise: g(t) sqrt(dt), g = diffusion t^2, at most sigma'.

    Args:
        level, next_level: of a flow model, t = sigma.
        diffusion: g at t = 1.
        path: on which dx = ... + g dw runs. The variance-preserving one is x / sqrt(alpha^2 + sigma^2), so its noise is
            larger here by that root at the next level.
    """
    spread = diffusion * level.sigma**2 * math.sqrt(level.sigma - next_level.sigma)
    scale = math.hypot(next_level.alpha, next_level.sigma) if path == VP else 1.0
    return min(spread * scale, next_level.sigma)


def sde_step(prediction: Prediction, next_level: Level, spread: float, fresh: torch.Tensor) -> torch.Tensor:
    """Compute x' = alpha' x0_hat + sqrt(sigma'^2 - s^2) eps_hat + s n, one step of the flow's SDE.

    With s^2 = g^2 dt its first terms are the Euler step of the ODE and g^2 / 2 times the score -eps_hat / sigma, so the
    marginals are the ODE's for every g as dt goes to 0.

    Args:
        prediction: at the level before.
        next_level: after.
        spread: s, at most sigma'.
        fresh: n, unit normal.

    Source: Kim et al., Inference-time scaling for flow models via stochastic generation and rollover budget forcing,
    arXiv:2503.19385; the form is that of Song et al., DDIM, arXiv:2010.02502, equation 12.
    Differs: the score's share is kept under the root, which is exact for a single datum at any step length.
    """
    rest = math.sqrt(max(0.0, next_level.sigma**2 - spread**2))
    return next_level.alpha * prediction.denoised + rest * prediction.noise + spread * fresh


class Rollover:
    """Rollover budget forcing: each step has a quota of candidates; what an early improvement leaves goes to the next.

    Source: Kim et al., arXiv:2503.19385.
    Differs: where a run ends before its budget, the next seed's begins. Levels are the request's; the path's conversion
    acts on the noise of each step alone.
    """

    def __init__(self, settings: RolloverSettings):
        self.settings = settings

    def check(self, request: Request) -> None:
        require_plain_start(request, "Rollover budget forcing")
        require_unshifted(request, "Rollover budget forcing")
        require_uncached_rows(request, "Rollover budget forcing")
        if request.sampler.key not in ("flow_euler", "ddim", "dpmpp_1"):
            raise SettingsError(
                "Rollover budget forcing samples the flow's SDE by its own first-order steps. Choose the sampler "
                "Flow Euler, whose steps they are without noise."
            )

    def least(self, cost: float, num_steps: int) -> float:
        return cost

    @no_grad
    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        first = 0
        while problem.affordable():
            yield from self._walk(problem, first)
            first += 1

    def _walk(self, problem: Problem, first: int) -> Iterator[list[Candidate]]:
        """One run; all of the budget that is left is its quota."""
        noise, source = problem.builder.draw(first, 1)
        share = (problem.left - problem.branches) / max(problem.num_steps - 1, 1)
        run = problem.run((noise, source))
        run.denoiser.num_steps, run.denoiser.step = problem.num_steps, 0
        prediction = run.denoiser.predict(run.latents, problem.levels[0])
        best, quota = -math.inf, 0.0
        for index in range(1, problem.num_steps):
            run.denoiser.step = index
            quota += share
            chosen: tuple[float, Prediction] | None = None
            guidance = run.denoiser.guidance
            for reward, answer, judged in self._try_steps(problem, run, prediction, index, quota):
                quota -= problem.branches
                if chosen is None or reward > chosen[0]:
                    chosen, guidance = (reward, answer), run.denoiser.guidance
                yield judged.name([f"run of seed {problem.request.seed + first}, step {index}"], finished=False)
                if reward > best:
                    break
            if chosen is None:
                raise SettingsError("The budget does not pay for one candidate a step.")
            best, prediction = chosen
            run.denoiser.guidance = guidance
        clean = sde_step(prediction, problem.levels[-1], 0.0, torch.zeros_like(noise).to(run.latents.device))
        yield problem.judge(clean).name([f"run of seed {problem.request.seed + first}"])

    def _try_steps(
        self, problem: Problem, run: Run, prediction: Prediction, index: int, quota: float
    ) -> Iterator[tuple[float, Prediction, Judged]]:
        """Candidates of a step within its quota; without noise they are all alike, and one is enough."""
        level, next_level = problem.levels[index - 1 : index + 1]
        guidance = run.denoiser.guidance
        spread = fresh_share(level, next_level, self.settings.diffusion, self.settings.path)
        for _ in range(int((quota + 1e-6) / problem.branches) if spread else 1):
            candidate = sde_step(prediction, next_level, spread, run.noise(run.latents))
            run.denoiser.guidance = copy.copy(guidance)  # a candidate remembers nothing of the others
            answer = run.denoiser.predict(candidate, next_level)
            judged = problem.judge(answer.denoised)
            yield float(judged.rewards[0]), answer, judged

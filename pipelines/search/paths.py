"""Search over paths: pictures are noised again part of the way, and denoised anew."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import torch

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.gradients import no_grad
from pipelines.core.loop import Run, denoise
from pipelines.core.prediction import ShiftingGuidance
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.core.types import Request, Step
from pipelines.guidance import GUIDANCE
from pipelines.initializations import INITIALIZATIONS
from pipelines.search.base import Candidate, Problem, SearchSettings

__all__ = ["Paths", "PathsSettings", "find_level", "noise_again", "require_plain_start", "require_unshifted"]


@dataclasses.dataclass(frozen=True)
class PathsSettings(SearchSettings):
    """Settings of the search."""

    paths: int = setting(2, "Paths that are kept.", low=1, high=8, step=1)
    expansions: int = setting(2, "Ways on that are tried of each path.", low=1, high=8, step=1)
    start: float = setting(0.11, "Noise share at which the first paths are judged.", low=0, high=0.95, step=0.01)
    forward: float = setting(0.78, "Noise share that is added again.", low=0.02, high=0.98, step=0.01)
    backward: float = setting(0.81, "Noise share that is then taken away.", low=0.02, high=1, step=0.01)


def _share(level: Level) -> float:
    """sigma / (alpha + sigma): the sigma of a flow model with this ratio of signal and noise."""
    return level.sigma / (level.alpha + level.sigma)


def find_level(levels: Sequence[Level], share: float, low: int, high: int) -> int:
    """Find the level from `low` to `high` whose share of noise, sigma / (alpha + sigma), is nearest."""
    return min(range(low, high + 1), key=lambda index: abs(_share(levels[index]) - share))


def noise_again(latents: torch.Tensor, level: Level, target: Level, fresh: torch.Tensor) -> torch.Tensor:
    """Add noise to latents at a level until they stand at a noisier one.

    Args:
        latents: (B, C, h, w) at `level`.
        level, target: before and after.
        fresh: unit normal, as the latents.

    Source: Ma et al., arXiv:2501.09732; for x = alpha x0 + sigma eps of any alpha and sigma.
    """
    factor = target.alpha / level.alpha
    return factor * latents + max(0.0, target.sigma**2 - (factor * level.sigma) ** 2) ** 0.5 * fresh


def require_plain_start(request: Request, label: str) -> None:
    """Refuse an initialization that walks a part of the schedule alone.

    Raises:
        SettingsError: there is one.
    """
    if request.start.key != Request.start.key:
        start = INITIALIZATIONS[request.start.key].label
        raise SettingsError(f"{label} walks the schedule itself and cannot begin with {start}. Choose Plain noise.")


def require_unshifted(request: Request, label: str) -> None:
    """Refuse a guidance that moves the latents, which only the loop does.

    Raises:
        MethodFitError: it is one.
    """
    guidance = GUIDANCE.build(request.guidance)
    if isinstance(guidance, ShiftingGuidance) and guidance.shift_evaluations(request.num_inference_steps):
        moved = GUIDANCE[request.guidance.key].label
        raise MethodFitError(
            f"{label} walks the schedule itself, where {moved} moves nothing. Choose another guidance."
        )


class Paths:
    """Search over paths: from the best paths, each noised again by `forward` in several ways, `backward` is denoised.

    Source: Ma et al., arXiv:2501.09732.
    Differs: levels are the nearest of the run's own, and each round comes at least one level further; where a round
    has reached clean pictures, the next begins with the best of all, until the budget is used.
    """

    def __init__(self, settings: PathsSettings):
        self.settings = settings

    def check(self, request: Request) -> None:
        require_plain_start(request, "Search over paths")
        if request.num_inference_steps < 3:
            raise SettingsError("Search over paths needs at least 3 steps, between which it turns back.")

    def least(self, cost: float, num_steps: int) -> float:
        return cost * self.settings.paths

    @no_grad
    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        settings, levels, end = self.settings, problem.levels, problem.num_steps
        count = settings.paths
        index = find_level(levels, settings.start, 1, end)
        step = _walk(problem.run(problem.builder.draw(0, count)), index)
        judged = problem.judge(step.denoised)
        latents, scores = step.latents, judged.rewards
        first = problem.request.seed
        yield judged.name([f"seed {first + i}" for i in range(count)], finished=index == end)
        turn, tried = 0, count * settings.expansions
        while True:
            turn += 1
            again = find_level(levels, min(1.0, _share(levels[index]) + settings.forward), 0, index - 1)
            target = find_level(levels, max(0.0, _share(levels[again]) - settings.backward), again + 1, end)
            target = end if index == end else max(target, index + 1)
            # Paths that are not clean yet must still be walked to their end afterwards.
            rest = 0 if target == end else problem.price(end - target) * count
            price = problem.price(target - again) * tried + rest
            if problem.affordable(price) < 1:
                break
            rows = torch.arange(count).repeat_interleave(settings.expansions)
            source = problem.fresh(tried)
            noisy = noise_again(latents[rows], levels[index], levels[again], source(latents[rows]))
            step = _walk(problem.resume(noisy, again, source), target - again)
            judged = problem.judge(step.denoised)
            names = [f"round {turn}, path {i + 1}" for i in range(tried)]
            yield judged.name(names, finished=target == end)
            latents, scores, index = _keep_best(step.latents, judged.rewards, latents, scores, index, target, count)
        if index < end:
            source = problem.fresh(count)
            judged = problem.judge(problem.finish(problem.resume(latents, index, source)))
            yield judged.name([f"path {i + 1}" for i in range(count)])


def _keep_best(
    latents: torch.Tensor,
    scores: torch.Tensor,
    before: torch.Tensor,
    scores_before: torch.Tensor,
    index: int,
    target: int,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The best paths, their rewards and their level; at one level the earlier ones compete."""
    if index == target:
        latents, scores = torch.cat([before, latents]), torch.cat([scores_before, scores])
    best = scores.argsort(descending=True, stable=True)[:count]
    return latents[best.to(latents.device)], scores[best], target


def _walk(run: Run, steps: int) -> Step:
    """The step that ends so many steps of a run."""
    *_, step = itertools.islice(denoise(run), steps)
    return step

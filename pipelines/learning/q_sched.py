"""Q-Sched: two coefficients that make up, in the sampler, for what rounding did to a few-step model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.learning.cases import finals
from pipelines.learning.problem import Problem
from pipelines.rewards.adherence import Adherence, AdherenceSettings
from pipelines.rewards.base import RewardSources
from pipelines.samplers.scaled_steps import ScaledSteps
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned import learned_levels

__all__ = ["Correction", "QSchedSettings", "fit_q_sched", "judge_prompts", "list_grid", "require_corrected"]

MOST_STEPS = 12
_SOURCES = RewardSources(Path())
"""Of the shipped judge, which needs no folder."""

Pair = tuple[float, float]
"""c_x of the latents and c_eps of the network's output, both at the first step."""


@dataclasses.dataclass(frozen=True)
class QSchedSettings:
    score: str = setting(
        "long_run",
        "What the coefficients make small: the distance from the same model's long run, or what the shipped judge "
        "misses of the prompts, without any long run.",
        choices=("long_run", "adherence"),
    )
    width: float = setting(0.2, "How far from 1 the first grid of coefficients reaches.", low=0.01, high=0.5, step=0.01)
    points: int = setting(5, "Values of each coefficient in a grid.", low=3, high=41, step=2)
    rounds: int = setting(2, "Grids, each half as wide, about the best pair so far.", low=1, high=6, step=1)


@dataclasses.dataclass(frozen=True)
class Correction:
    """Describes one pair that was tried.

    Attributes:
        index, total: of the pairs of all grids.
        loss: of this pair on the fitted pictures.
        best, best_loss: the pair with the smallest so far.
        times: N network times of the run that is corrected.
        uniform, held_out: relative error from the long run on the held-out pictures, without a correction and with
            the best pair so far.
    """

    index: int
    total: int
    loss: float
    best: Pair
    best_loss: float
    times: tuple[float, ...]
    uniform: float
    held_out: float


def list_grid(center: Pair, width: float, points: int) -> list[Pair]:
    """List the pairs of a square grid about one, row by row."""
    offsets = [width * (2 * place / (points - 1) - 1) for place in range(points)]
    return [(center[0] + across, center[1] + up) for across in offsets for up in offsets]


def fit_q_sched(
    problem: Problem,
    settings: QSchedSettings = QSchedSettings(),
    seed: int = 0,
    judge: Callable[[torch.Tensor], float] | None = None,
) -> Iterator[Correction]:
    """Try pairs of coefficients on whole runs; the pair (1, 1) is tried first, so the best is never worse by the score.

    Args:
        problem: its sampler and steps are what is corrected.
        settings: of the fit.
        seed: unused; nothing is drawn.
        judge: of final latents (N, C, h, w), what is to be made small, for the score "adherence".

    Raises:
        SettingsError: the score needs a judge, and there is none.
        Cancelled: the fit was stopped.

    Source: Frumkin & Marculescu, Q-Sched, arXiv:2509.01624: the grid over pairs of the first step's coefficients, and
    a score that sees no full-precision model.
    Differs: their score joins a text-image term with one of picture quality (JAQ); here it is the shipped detector's
    probability, or the distance from the same rounded model's long run. A coarse grid is refined.
    """
    if settings.score == "adherence" and judge is None:
        raise SettingsError("No judge reads these prompts. Choose the score long_run.")
    visited = SCHEDULES["uniform"].build().levels(problem.noise_schedule, problem.num_steps)
    times = tuple(float(level.timestep) for level in visited[:-1])
    levels = learned_levels(times, times, problem.noise_schedule)
    measure = _build_loss(problem, settings, levels, judge)
    best, total = (1.0, 1.0), 1 + settings.rounds * (settings.points**2 - 1)
    best_loss = measure(best)
    uniform = held_out = problem.error(levels, problem.held_out)
    index, width, tried = 0, settings.width, {best: best_loss}
    yield Correction(0, total - 1, best_loss, best, best_loss, times, uniform, held_out)
    for _ in range(settings.rounds):
        center = best
        for pair in list_grid(center, width, settings.points):
            if pair == center:
                continue
            if problem.cancelled():
                raise Cancelled
            index += 1
            loss = tried[pair] = tried[pair] if pair in tried else measure(pair)
            if loss < best_loss:
                best, best_loss = pair, loss
                held_out = problem.error(levels, problem.held_out, ScaledSteps(problem.sampler, *best))
            yield Correction(index, total - 1, loss, best, best_loss, times, uniform, held_out)
        width /= 2


def _build_loss(
    problem: Problem,
    settings: QSchedSettings,
    levels: Sequence[Level],
    judge: Callable[[torch.Tensor], float] | None,
) -> Callable[[Pair], float]:
    if settings.score == "long_run" or judge is None:
        return lambda pair: problem.error(levels, problem.fitted, ScaledSteps(problem.sampler, *pair))

    def measure(pair: Pair) -> float:
        sampler = ScaledSteps(problem.sampler, *pair)
        cases, schedule = problem.fitted.cases, problem.noise_schedule
        latents = finals(
            cases,
            problem.network,
            problem.guidance,
            sampler,
            levels,
            schedule,
            rows=problem.rows,
            cancelled=problem.cancelled,
        )
        return judge(latents)

    return measure


def require_corrected(settings: QSchedSettings, num_steps: int, prompts: Sequence[str]) -> None:
    """Check a fit before any model is loaded.

    Args:
        settings: of the fit.
        num_steps: of the run.
        prompts: of the pictures.

    Raises:
        MethodFitError: the run has too many steps for a correction of the first ones.
        SettingsError: the judge cannot read a prompt.
    """
    if num_steps > MOST_STEPS:
        raise MethodFitError(
            f"Q-Sched corrects runs of few steps, 2 to {MOST_STEPS}, and this one has {num_steps}. Choose fewer."
        )
    if settings.score == "adherence":
        for prompt in dict.fromkeys(prompts):
            Adherence(AdherenceSettings()).check(prompt, _SOURCES)


def judge_prompts(
    prompts: Sequence[str], decode: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[torch.Tensor], float]:
    """Build a judge of final latents: one less the detector's mean probability, each picture by its own prompt.

    Args:
        prompts: one a picture.
        decode: latents (1, C, h, w) to pictures (1, 3, H, W) in [0, 1].
    """
    reward = Adherence(AdherenceSettings())
    scores = {prompt: reward.load(prompt, _SOURCES) for prompt in dict.fromkeys(prompts)}

    def judge(latents: torch.Tensor) -> float:
        values = [float(scores[prompt](decode(latents[row : row + 1]))[0]) for row, prompt in enumerate(prompts)]
        return 1.0 - sum(values) / len(values)

    return judge

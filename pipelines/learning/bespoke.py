"""Bespoke solvers: the factors of every step, fitted so that a run stays where a long run passes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipelines.denoiser import Cancelled, Denoiser
from pipelines.errors import MethodFitError, SettingsError
from pipelines.learning.problem import Pictures, Problem, relative_error
from pipelines.registry import setting
from pipelines.samplers.fitted_factors import FittedFactors, combined
from pipelines.schedule import Level
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned import learned_levels

__all__ = ["BespokeSettings", "FittedSolver", "Trial", "fit_bespoke", "fitted_rows", "passed"]

_RIDGE = 1e-6
"""Of the normal equations' own diagonal: neighbouring estimates are nearly the same."""

_NEAREST = 4


@dataclasses.dataclass(frozen=True)
class BespokeSettings:
    start: str = setting("uniform", "The hand-made schedule whose times are fitted to first.",
                         choices=("uniform", "beta", "quadratic", "dense_high"))
    tries: int = setting(8, "Further sets of times to try, each a change of the best so far.", low=0, high=1000, step=1)


@dataclasses.dataclass(frozen=True)
class FittedSolver:
    """Times, a row of factors for every step, and the relative errors on the fitted and the held-out pictures."""

    times: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    fitted: float
    held_out: float


@dataclasses.dataclass(frozen=True)
class Trial:
    """One set of times, fitted. `uniform` is the error of the solver itself on uniform times, on the held-out pictures."""

    index: int
    total: int
    loss: float
    best: FittedSolver
    uniform: float


def passed(pictures: Pictures, level: Level) -> torch.Tensor:
    """Where the long run passes a level: its own latents there, or the cubic in lambda through the nearest four."""
    known = [one.lam for one in pictures.levels]
    finite = [i for i, lam in enumerate(known) if math.isfinite(lam)]
    nearest = sorted(sorted(finite, key=lambda i: abs(known[i] - level.lam))[:_NEAREST])
    if math.isinf(level.lam) or abs(known[nearest[0]] - level.lam) < 1e-9:
        return pictures.path[0] if math.isinf(level.lam) else pictures.path[nearest[0]]
    total = torch.zeros_like(pictures.path[0])
    for i in nearest:
        factor = math.prod((level.lam - known[j]) / (known[i] - known[j]) for j in nearest if j != i)
        total = total + factor * pictures.path[i]
    return total


def least_squares(known: Sequence[torch.Tensor], wanted: torch.Tensor) -> tuple[float, ...]:
    """The factors of the combination of `known` that is nearest to `wanted`, in float64."""
    columns = torch.stack([one.flatten() for one in known], 1).double()
    squares = columns.T @ columns
    right = columns.T @ wanted.flatten().double()
    return tuple(torch.linalg.solve(squares + _RIDGE * torch.diag(squares.diag()), right).tolist())


def fitted_rows(problem: Problem, times: Sequence[float]) -> tuple[tuple[tuple[float, ...], ...], float]:
    """The rows for these times, and the relative error they leave on the fitted pictures. N evaluations a picture.

    Raises:
        Cancelled: the fit was stopped.
    """
    levels, pictures = learned_levels(times, times, problem.noise_schedule), problem.fitted
    start = pictures.cases.noise * problem.noise_schedule.initial_scale(levels[0])
    known, rows, latents = [start], [], start
    for level, next_level in zip(levels, levels[1:], strict=False):
        known.append(_noise(problem, latents, level))
        wanted = pictures.wanted if next_level.sigma == 0 else passed(pictures, next_level)
        rows.append(least_squares(known, wanted))
        latents = combined(rows[-1], known)
    return tuple(rows), relative_error(latents, pictures.wanted)


@torch.no_grad()
def _noise(problem: Problem, latents: torch.Tensor, level: Level) -> torch.Tensor:
    found = []
    for part, own in zip(problem.fitted.cases.parts(problem.rows), latents.split(problem.rows), strict=True):
        denoiser = Denoiser(problem.network, problem.guidance, part.conditionings, problem.cancelled)
        found.append(denoiser.predict(own, level).noise)
    return torch.cat(found)


def fit_bespoke(problem: Problem, settings: BespokeSettings = BespokeSettings(), seed: int = 0) -> Iterator[Trial]:
    """Fit the factors to several sets of times, and yield after each; `best` of the last is the result.

    Args:
        problem: its sampler is the one whose place the factors take; one evaluation a step, no fresh noise.
        settings: of the fit.
        seed: of the changes of the times.

    Raises:
        MethodFitError: the sampler is another kind.
        SettingsError: there are fewer than two steps.
        Cancelled: the fit was stopped.

    Source: Shaul et al., Bespoke non-stationary solvers, arXiv:2403.01329, for the family of solvers.
    Differs: the paper descends the gradient of the final error; here each row is the least-squares solution for the long
    run's own latents at the step's end, which needs one short run and no gradient; the times are improved by chance.
    """
    count, last = problem.num_steps, problem.last_time()
    if count < 2:
        raise SettingsError("A solver of 1 step has nothing to learn. Choose 2 steps or more.")
    if problem.sampler.calls(count) != count:
        raise MethodFitError("Factors can be fitted in the place of samplers with one evaluation a step only. Choose another.")
    rng = np.random.default_rng(seed)
    uniform = SCHEDULES["uniform"].build().levels(problem.noise_schedule, count)
    error = problem.error(uniform, problem.held_out)
    times = [level.timestep for level in SCHEDULES[settings.start].build().levels(problem.noise_schedule, count)[:-1]]
    best: FittedSolver | None = None
    for index in range(settings.tries + 1):
        if problem.cancelled():
            raise Cancelled
        tried = times if best is None else _moved(best.times, last, rng)
        rows, loss = fitted_rows(problem, tried)
        if best is None or loss < best.fitted:
            held_out = problem.error(learned_levels(tried, tried, problem.noise_schedule), problem.held_out,
                                     FittedFactors(rows, tried))
            best = FittedSolver(tuple(map(float, tried)), rows, loss, held_out)
        yield Trial(index, settings.tries, loss, best, error)


def _moved(times: Sequence[float], last: float, rng: np.random.Generator) -> tuple[float, ...]:
    """Every time but the first moved by up to a sixth of a step's room."""
    ends = np.array([*times, 0.0])
    room = np.minimum(-np.diff(ends)[:-1], -np.diff(ends)[1:])
    return (last, *(ends[1:-1] + room * rng.uniform(-1 / 6, 1 / 6, len(room))).tolist())

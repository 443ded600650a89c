"""The first half of a bespoke fit: rows of factors by least squares against a long run."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.gradients import no_grad
from pipelines.core.prediction import Query
from pipelines.core.schedule import Level
from pipelines.learning.problem import Pictures, Problem, relative_error
from pipelines.samplers.fitted_factors import FittedFactors, Terms, combine
from pipelines.samplers.prompt_extrapolation import PromptExtrapolation
from pipelines.schedules.learned import learned_levels

__all__ = [
    "LeastSquares",
    "collect_normal_matrices",
    "evaluate_terms",
    "fit_rows",
    "interpolate_path",
    "normal_matrix",
    "solve_least_squares",
]

_RIDGE = 1e-6  # relative to the diagonal; consecutive estimates are almost collinear

_NEAREST = 4  # levels of the long run through which the polynomial goes: a cubic


@dataclasses.dataclass(frozen=True)
class LeastSquares:
    """Describes rows for given times, the relative error they leave on the fitted pictures, and each row's normal
    matrix."""

    rows: tuple[tuple[float, ...], ...]
    loss: float
    squares: tuple[torch.Tensor, ...]


def interpolate_path(pictures: Pictures, level: Level) -> torch.Tensor:
    """Find where the long run passes a level: its own latents, or the cubic in lambda through the nearest four."""
    lambdas = [one.lam for one in pictures.levels]
    finite = [i for i, lam in enumerate(lambdas) if math.isfinite(lam)]
    nearest = sorted(sorted(finite, key=lambda i: abs(lambdas[i] - level.lam))[:_NEAREST])
    if math.isinf(level.lam) or abs(lambdas[nearest[0]] - level.lam) < 1e-9:
        return pictures.path[0] if math.isinf(level.lam) else pictures.path[nearest[0]]
    total = torch.zeros_like(pictures.path[0])
    for i in nearest:
        factor = math.prod((level.lam - lambdas[j]) / (lambdas[i] - lambdas[j]) for j in nearest if j != i)
        total = total + factor * pictures.path[i]
    return total


def normal_matrix(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return (K, K), float64 on the CPU, since some devices have no float64: the mean products of K tensors."""
    columns = torch.stack([one.flatten() for one in tensors], 1).cpu().double()
    return columns.T @ columns / len(columns)


def solve_least_squares(
    tensors: Sequence[torch.Tensor], target: torch.Tensor, squares: torch.Tensor
) -> tuple[float, ...]:
    """Return the factors of the combination of `tensors` that is nearest to `target`, in float64.

    Args:
        tensors: K tensors.
        target: of the same shape.
        squares: their normal matrix.
    """
    exact = target.cpu().double()
    right = torch.stack([(one.cpu().double() * exact).mean() for one in tensors])
    return tuple(torch.linalg.solve(squares + _RIDGE * torch.diag(squares.diag()), right).tolist())


def fit_rows(problem: Problem, times: Sequence[float], terms: Terms = Terms()) -> LeastSquares:
    """Fit the rows for these times. N evaluations a picture.

    Args:
        problem: of the fit.
        times: N network times, falling.
        terms: what the factors belong to.

    Raises:
        Cancelled: the fit was stopped.
    """
    levels, pictures = learned_levels(times, times, problem.noise_schedule), problem.fitted
    start = pictures.cases.noise * problem.noise_schedule.initial_scale(levels[0])
    tensors, rows, matrices, latents = [start], [], [], start
    for index, (level, next_level) in enumerate(itertools.pairwise(levels)):
        tensors += evaluate_terms(problem, latents, level, terms, index)
        target = pictures.final_latents if next_level.sigma == 0 else interpolate_path(pictures, next_level)
        matrices.append(normal_matrix(tensors))
        rows.append(solve_least_squares(tensors, target, matrices[-1]))
        latents = combine(rows[-1], tensors)
    return LeastSquares(tuple(rows), relative_error(latents, pictures.final_latents), tuple(matrices))


def collect_normal_matrices(problem: Problem, solver: FittedFactors) -> list[torch.Tensor]:
    """Return each row's normal matrix along the runs of a fitted solver. N evaluations a picture.

    Args:
        problem: of the fit.
        solver: fitted before.

    Raises:
        Cancelled: the fit was stopped.
    """
    levels, cases = learned_levels(solver.times, solver.times, problem.noise_schedule), problem.fitted.cases
    latents = cases.noise * problem.noise_schedule.initial_scale(levels[0])
    tensors, matrices = [latents], []
    for index, (row, level) in enumerate(zip(solver.rows, levels, strict=False)):
        extrapolation = solver.prompt_extrapolation[index] if solver.prompt_extrapolation else None
        tensors += evaluate_terms(problem, latents, level, solver.terms, index, extrapolation)
        matrices.append(normal_matrix(tensors))
        latents = combine(row, tensors)
    return matrices


@no_grad
def evaluate_terms(
    problem: Problem,
    latents: torch.Tensor,
    level: Level,
    terms: Terms,
    index: int,
    extrapolation: PromptExtrapolation | None = None,
) -> list[torch.Tensor]:
    """Return the tensors that a step's evaluation of all fitted pictures adds to those known.

    Args:
        problem: of the fit.
        latents: (N, C, h, w), of the fitted pictures.
        level: theirs.
        terms: what the factors belong to.
        index: of the step.
        extrapolation: of the prompts in this step; None for none.

    Raises:
        Cancelled: the fit was stopped.
    """
    estimates = []
    for part, rows in zip(problem.fitted.cases.parts(problem.rows), latents.split(problem.rows), strict=True):
        denoiser = Denoiser(problem.network, problem.guidance, part.conditionings, problem.cancelled)
        estimates.append(
            terms.take_estimates(
                denoiser.answer(Query(rows, level, branches=terms.query_branches(index), conditioning=extrapolation)),
                index,
            )
        )
    return [torch.cat(parts) for parts in zip(*estimates, strict=True)]

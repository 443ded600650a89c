"""The first half of a bespoke fit: rows of factors by least squares against a long run."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch

from pipelines.core.denoiser import Denoiser, Query
from pipelines.core.schedule import Level
from pipelines.learning.problem import Pictures, Problem, relative_error
from pipelines.samplers.fitted_factors import FittedFactors, Terms, combined
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
    """Rows for given times, the relative error they leave on the fitted pictures, and each row's normal matrix."""

    rows: tuple[tuple[float, ...], ...]
    loss: float
    squares: tuple[torch.Tensor, ...]


def interpolate_path(pictures: Pictures, level: Level) -> torch.Tensor:
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


def normal_matrix(known: Sequence[torch.Tensor]) -> torch.Tensor:
    """(K, K), float64: the mean products of K tensors."""
    columns = torch.stack([one.flatten() for one in known], 1).double()
    return columns.T @ columns / len(columns)


def solve_least_squares(
    known: Sequence[torch.Tensor], wanted: torch.Tensor, squares: torch.Tensor
) -> tuple[float, ...]:
    """The factors of the combination of `known` that is nearest to `wanted`, in float64.

    Args:
        known: K tensors.
        wanted: of the same shape.
        squares: their normal matrix.
    """
    right = torch.stack([(one.double() * wanted.double()).mean() for one in known])
    return tuple(torch.linalg.solve(squares + _RIDGE * torch.diag(squares.diag()), right).tolist())


def fit_rows(problem: Problem, times: Sequence[float], terms: Terms = Terms()) -> LeastSquares:
    """The rows for these times. N evaluations a picture.

    Args:
        problem: of the fit.
        times: N network times, falling.
        terms: what the factors belong to.

    Raises:
        Cancelled: the fit was stopped.
    """
    levels, pictures = learned_levels(times, times, problem.noise_schedule), problem.fitted
    start = pictures.cases.noise * problem.noise_schedule.initial_scale(levels[0])
    known, rows, matrices, latents = [start], [], [], start
    for index, (level, next_level) in enumerate(itertools.pairwise(levels)):
        known += evaluate_terms(problem, latents, level, terms, index)
        wanted = pictures.wanted if next_level.sigma == 0 else interpolate_path(pictures, next_level)
        matrices.append(normal_matrix(known))
        rows.append(solve_least_squares(known, wanted, matrices[-1]))
        latents = combined(rows[-1], known)
    return LeastSquares(tuple(rows), relative_error(latents, pictures.wanted), tuple(matrices))


def collect_normal_matrices(problem: Problem, solver: FittedFactors) -> list[torch.Tensor]:
    """Each row's normal matrix along the runs of a fitted solver. N evaluations a picture.

    Args:
        problem: of the fit.
        solver: fitted before.

    Raises:
        Cancelled: the fit was stopped.
    """
    levels, cases = learned_levels(solver.times, solver.times, problem.noise_schedule), problem.fitted.cases
    latents = cases.noise * problem.noise_schedule.initial_scale(levels[0])
    known, matrices = [latents], []
    for index, (row, level) in enumerate(zip(solver.rows, levels, strict=False)):
        extrapolation = solver.prompt_extrapolation[index] if solver.prompt_extrapolation else None
        known += evaluate_terms(problem, latents, level, solver.terms, index, extrapolation)
        matrices.append(normal_matrix(known))
        latents = combined(row, known)
    return matrices


@torch.no_grad()
def evaluate_terms(
    problem: Problem,
    latents: torch.Tensor,
    level: Level,
    terms: Terms,
    index: int,
    extrapolation: PromptExtrapolation | None = None,
) -> list[torch.Tensor]:
    """The tensors that a step's evaluation of all fitted pictures adds to those known.

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
    found = []
    for part, own in zip(problem.fitted.cases.parts(problem.rows), latents.split(problem.rows), strict=True):
        denoiser = Denoiser(problem.network, problem.guidance, part.conditionings, problem.cancelled)
        found.append(
            terms.found(
                denoiser.answer(Query(own, level, branches=terms.asked(index), conditioning=extrapolation)), index
            )
        )
    return [torch.cat(parts) for parts in zip(*found, strict=True)]

"""Bespoke solvers: the factors of every step, fitted so that a run stays where a long run passes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipelines.core.denoiser import Denoiser, Query
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.learning.bespoke_descent import descend, inverse_root
from pipelines.learning.problem import Pictures, Problem, relative_error
from pipelines.samplers.fitted_factors import FittedFactors, Terms, combined
from pipelines.samplers.prompt_extrapolation import PromptExtrapolation
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned import learned_levels

__all__ = [
    "BespokeSettings",
    "FittedSolver",
    "LeastSquares",
    "Trial",
    "fit_bespoke",
    "fitted_rows",
    "normal_matrix",
    "passed",
]

_RIDGE = 1e-6
"""Of the normal equations' own diagonal: neighboring estimates are nearly the same."""

_NEAREST = 4

_POWERS = (1.0, 1.2, 1.4, 1.7, 2.0)
"""Of the start "best": t_k = t_0 * (1 - (k / N)^p), which is uniform at 1 and densest at high noise at 2."""

_FIRST = (1.0, 0.97)
"""Of the start "best", where none is given: t_0 over the last trained time T. Nothing is seen at T but noise, so a run may begin
a little later."""

_TRIED_ON = 128
"""Pictures on which sets of times are compared; where there are more, the best set's factors are then fitted to all."""

_HAND_MADE = ("uniform", "beta", "quadratic", "dense_high")


@dataclasses.dataclass(frozen=True)
class BespokeSettings:
    start: str = setting(
        "best",
        "The hand-made schedule whose times are fitted to first; best tries several between uniform "
        "and dense at high noise; kept goes on from a fit that is kept for this run.",
        choices=("best", "kept", *_HAND_MADE),
    )
    kept: str = setting("", "Name of the fit that the start kept goes on from; empty takes the best one for this run.")
    first_time: float = setting(
        0.0,
        "Where a run of the start best begins, as a share of the last trained time; 0 tries 1 and 0.97.",
        low=0,
        high=1,
        step=0.01,
    )
    tries: int = setting(0, "Further sets of times to try, each a change of the best so far.", low=0, high=1000, step=1)
    rounds: int = setting(
        100, "Steps of an optimizer that then moves all factors and times together.", low=0, high=5000, step=1
    )
    learning_rate: float = setting(0.008, "Of the optimizer.", low=1e-4, high=0.5, step=0.001)
    batch: int = setting(8, "Pictures a round of the optimizer.", low=1, high=256, step=1)
    loss_power: float = setting(
        1.0,
        "Of a picture's distance in the optimizer: at 1 one that goes astray pulls no harder than any "
        "other, 2 is the squared error.",
        low=0.5,
        high=2,
        step=0.1,
    )
    branches: bool = setting(
        True, "Give the two branches of the guidance factors of their own: closer, and then for this guidance only."
    )
    single_ends: bool = setting(
        False,
        "Evaluate the prompt's branch only in the first and the last step: the two cost one "
        "evaluation, so a run has a step more for its cost.",
    )
    emphasis: bool = setting(
        False,
        "Let the optimizer also move what the network is told in every step along the line from the "
        "negative prompt to the prompt, beyond it too: closer.",
    )


@dataclasses.dataclass(frozen=True)
class FittedSolver:
    """Times, a row of factors for every step, what they belong to, and the relative error on the fitted pictures.

    `held_out` is that on the held-out pictures, by which nothing was chosen. `emphasis` is as in `FittedFactors`.
    """

    times: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    fitted: float
    held_out: float
    terms: Terms = Terms()
    emphasis: tuple[tuple[float, ...], ...] = ()

    def factors(self) -> FittedFactors:
        """The sampler that runs it."""
        return FittedFactors(self.rows, self.times, self.terms, self.emphasis)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One set of times, fitted, or one round of the optimizer, with its error on the fitted pictures (a round's own few).

    `uniform` is the error of the sampler itself on uniform times, as many as cost the same, on the held-out pictures.
    """

    index: int
    total: int
    loss: float
    best: FittedSolver
    uniform: float


@dataclasses.dataclass(frozen=True)
class LeastSquares:
    """Rows for given times, the relative error they leave on the fitted pictures, and each row's normal matrix."""

    rows: tuple[tuple[float, ...], ...]
    loss: float
    squares: tuple[torch.Tensor, ...]


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


def normal_matrix(known: Sequence[torch.Tensor]) -> torch.Tensor:
    """(K, K), float64: the mean products of K tensors."""
    columns = torch.stack([one.flatten() for one in known], 1).double()
    return columns.T @ columns / len(columns)


def least_squares(known: Sequence[torch.Tensor], wanted: torch.Tensor, squares: torch.Tensor) -> tuple[float, ...]:
    """The factors of the combination of `known` that is nearest to `wanted`, in float64.

    Args:
        known: K tensors.
        wanted: of the same shape.
        squares: their normal matrix.
    """
    right = torch.stack([(one.double() * wanted.double()).mean() for one in known])
    return tuple(torch.linalg.solve(squares + _RIDGE * torch.diag(squares.diag()), right).tolist())


def fitted_rows(problem: Problem, times: Sequence[float], terms: Terms = Terms()) -> LeastSquares:
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
        known += _found(problem, latents, level, terms, index)
        wanted = pictures.wanted if next_level.sigma == 0 else passed(pictures, next_level)
        matrices.append(normal_matrix(known))
        rows.append(least_squares(known, wanted, matrices[-1]))
        latents = combined(rows[-1], known)
    return LeastSquares(tuple(rows), relative_error(latents, pictures.wanted), tuple(matrices))


def _matrices(problem: Problem, kept: FittedSolver) -> list[torch.Tensor]:
    """Each row's normal matrix along the runs of a fitted solver."""
    levels, cases = learned_levels(kept.times, kept.times, problem.noise_schedule), problem.fitted.cases
    latents = cases.noise * problem.noise_schedule.initial_scale(levels[0])
    known, matrices = [latents], []
    emphasis = kept.factors().emphasis
    for index, (row, level) in enumerate(zip(kept.rows, levels, strict=False)):
        known += _found(problem, latents, level, kept.terms, index, emphasis[index] if emphasis else None)
        matrices.append(normal_matrix(known))
        latents = combined(row, known)
    return matrices


@torch.no_grad()
def _found(
    problem: Problem,
    latents: torch.Tensor,
    level: Level,
    terms: Terms,
    index: int,
    emphasis: PromptExtrapolation | None = None,
) -> list[torch.Tensor]:
    found = []
    for part, own in zip(problem.fitted.cases.parts(problem.rows), latents.split(problem.rows), strict=True):
        denoiser = Denoiser(problem.network, problem.guidance, part.conditionings, problem.cancelled)
        found.append(
            terms.found(denoiser.answer(Query(own, level, branches=terms.asked(index), conditioning=emphasis)), index)
        )
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def fit_bespoke(
    problem: Problem, settings: BespokeSettings = BespokeSettings(), seed: int = 0, kept: FittedSolver | None = None
) -> Iterator[Trial]:
    """Fit the factors to several sets of times, then move all together; yields as it goes, `best` of the last is the result.

    Args:
        problem: its sampler is the one whose place the factors take; one evaluation a step, no fresh noise.
        settings: of the fit.
        seed: of the changes of the times, and of the order of the pictures.
        kept: of the start "kept", where the optimizer goes on.

    Raises:
        MethodFitError: the sampler is another kind.
        SettingsError: there are fewer than two steps, a branch is to be left out where there are not two, emphasis is to be
            fitted where there are no two branches or no rounds.
        Cancelled: the fit was stopped.

    Source: Shaul et al., Bespoke non-stationary solvers, arXiv:2403.01329: the family of solvers, and the descent of the
    final error's gradient (`bespoke_descent`).
    Differs: begins with least squares, each row the solution for the long run's own latents at the step's end, which
    needs one short run and no gradient; and the branches of the guidance may have factors of their own. With `single_ends` the
    first and the last step evaluate the prompt's branch only, as adaptive guidance does in its last steps (Castillo et al.,
    arXiv:2312.12487): at the start the other branch sees nothing but noise, at the end the two hardly differ. With
    `emphasis` the descent also moves what the network is told of the prompts, as `fitted_emphasis` says.
    """
    count = problem.num_steps
    if count < 2:
        raise SettingsError("A solver of 1 step has nothing to learn. Choose 2 steps or more.")
    if problem.sampler.nfe(count) != count:
        raise MethodFitError(
            "Factors can be fitted in the place of samplers with one evaluation a step only. Choose another."
        )
    rng, schedule, terms = np.random.default_rng(seed), problem.noise_schedule, _terms(problem, settings)
    uniform = problem.error(SCHEDULES["uniform"].build().levels(schedule, terms.evaluations(count)), problem.held_out)
    few = dataclasses.replace(problem, fitted=problem.fitted.first(_TRIED_ON))
    if settings.start == "kept":
        yield from _gone_on(problem, few, settings, seed, _of(terms, kept), uniform)
        return
    starts, more = _starts(settings, problem), len(problem.fitted.cases) > _TRIED_ON
    total = len(starts) - 1 + settings.tries + more + settings.rounds
    best: tuple[tuple[float, ...], LeastSquares] | None = None
    shown: FittedSolver | None = None
    for index in range(len(starts) + settings.tries):
        tried = starts[index] if index < len(starts) else _moved(best[0], rng)
        fit = fitted_rows(few, tried, terms)
        if best is None or fit.loss < best[1].loss:
            best, shown = (tried, fit), _judged(problem, tried, fit.rows, fit.loss, terms)
        yield Trial(index, total, fit.loss, shown, uniform)
    times, fit = best
    if more:
        fit = fitted_rows(problem, times, terms)
        shown = _judged(problem, times, fit.rows, fit.loss, terms)
        yield Trial(index + 1, total, fit.loss, shown, uniform)
    if settings.rounds:
        after = Trial(len(starts) - 1 + settings.tries + more, total, shown.fitted, shown, uniform)
        yield from _descended(problem, after, fit.squares, settings, seed)


def _gone_on(
    problem: Problem, few: Problem, settings: BespokeSettings, seed: int, kept: FittedSolver, uniform: float
) -> Iterator[Trial]:
    levels = learned_levels(kept.times, kept.times, problem.noise_schedule)
    loss = problem.error(levels, problem.fitted, kept.factors())
    begun = Trial(
        0, settings.rounds, loss, _judged(problem, kept.times, kept.rows, loss, kept.terms, kept.emphasis), uniform
    )
    yield begun
    yield from _descended(problem, begun, _matrices(few, kept), settings, seed)


def _of(terms: Terms, kept: FittedSolver | None) -> FittedSolver:
    """The kept solver, where its factors belong to these terms.

    Raises:
        SettingsError: there is none, or they do not.
    """
    if kept is None:
        raise SettingsError("No bespoke solver is kept for this run to go on from. Choose another start.")
    if kept.terms != terms:
        raise SettingsError(
            f"The kept solver combines {' and '.join(kept.terms.branches) or 'the guided estimate'}"
            f"{' with single ends' * bool(kept.terms.single)}, and the fit is to be another. Set branches and "
            "single_ends as it has them, or choose another start."
        )
    return kept


def _descended(
    problem: Problem, after: Trial, squares: Sequence[torch.Tensor], settings: BespokeSettings, seed: int
) -> Iterator[Trial]:
    """The optimizer's rounds from a trial's solver on."""
    shown = begun = after.best
    roots = [inverse_root(one) for one in squares]
    rounds = descend(problem, begun.times, begun.rows, roots, begun.terms, settings, seed, begun.emphasis)
    for index, reached in enumerate(rounds, after.index + 1):
        for one in (reached, reached.mean) if reached.mean else ():
            levels = learned_levels(one.times, one.times, problem.noise_schedule)
            loss = problem.error(levels, problem.fitted, FittedFactors(one.rows, one.times, begun.terms, one.emphasis))
            if loss < shown.fitted:
                shown = _judged(problem, one.times, one.rows, loss, begun.terms, one.emphasis)
        yield Trial(index, after.total, reached.loss, shown, after.uniform)


def _terms(problem: Problem, settings: BespokeSettings) -> Terms:
    """The guidance's branches where every level has the same several; else none, and the factors take the guided estimate.

    Raises:
        SettingsError: a branch is to be left out where there are not two, or no step in the middle.
    """
    levels = SCHEDULES["uniform"].build().levels(problem.noise_schedule, problem.num_steps)
    plans = {tuple(problem.guidance.plan(level)) for level in levels[:-1]}
    only = plans.pop()
    branches = only if settings.branches and not plans and len(only) > 1 else ()
    if settings.emphasis and not (branches and settings.rounds):
        raise SettingsError(
            "PromptExtrapolation can be fitted only where two branches have factors of their own, in rounds of the optimizer. "
            "Choose a guidance scale above 1, factors for the branches and a round or more, or switch emphasis off."
        )
    if not settings.single_ends:
        return Terms(branches)
    if len(branches) != 2 or problem.num_steps < 3:
        raise SettingsError(
            "A branch can be left out at both ends only where two branches have factors of their own, in 3 steps "
            "or more. Choose a guidance scale above 1, factors for the branches and more steps, or switch "
            "single_ends off."
        )
    return Terms(branches, (0, problem.num_steps - 1))


def _starts(settings: BespokeSettings, problem: Problem) -> list[tuple[float, ...]]:
    count, last = problem.num_steps, problem.last_time()
    if settings.start == "best":
        shares = (settings.first_time,) if settings.first_time else _FIRST
        return [
            tuple(share * last * (1 - (k / count) ** power) for k in range(count))
            for share in shares
            for power in _POWERS
        ]
    levels = SCHEDULES[settings.start].build().levels(problem.noise_schedule, count)
    return [tuple(float(level.timestep) for level in levels[:-1])]


def _judged(
    problem: Problem,
    times: Sequence[float],
    rows: Sequence[Sequence[float]],
    loss: float,
    terms: Terms,
    emphasis: tuple[tuple[float, ...], ...] = (),
) -> FittedSolver:
    levels = learned_levels(times, times, problem.noise_schedule)
    held_out = problem.error(levels, problem.held_out, FittedFactors(rows, times, terms, emphasis))
    return FittedSolver(tuple(map(float, times)), tuple(map(tuple, rows)), loss, held_out, terms, emphasis)


def _moved(times: Sequence[float], rng: np.random.Generator) -> tuple[float, ...]:
    """Every time but the first moved by up to a sixth of a step's room."""
    ends = np.array([*times, 0.0])
    room = np.minimum(-np.diff(ends)[:-1], -np.diff(ends)[1:])
    return (ends[0].item(), *(ends[1:-1] + room * rng.uniform(-1 / 6, 1 / 6, len(room))).tolist())

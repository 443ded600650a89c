"""Bespoke solvers: the factors of every step, fitted so that a run stays where a long run passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.learning.bespoke_descent import descend, inverse_root
from pipelines.learning.bespoke_rows import collect_normal_matrices, fit_rows
from pipelines.learning.bespoke_settings import BespokeSettings, choose_terms, list_starting_times
from pipelines.learning.problem import Problem
from pipelines.samplers.fitted_factors import FittedFactors, Terms
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned import learned_levels

__all__ = ["FitContext", "FittedSolver", "Trial", "fit_bespoke", "require_matching_terms", "resume_fit"]

_TRIED_ON = 128
"""Pictures on which sets of times are compared; where there are more, the best set's factors are then fitted to all."""


@dataclasses.dataclass(frozen=True)
class FittedSolver:
    """Describes times, a row of factors for every step, what they belong to, and the relative error on the fitted
    pictures.

    `held_out` is that on the held-out pictures, by which nothing was chosen. `prompt_extrapolation` is as in
    `FittedFactors`.
    """

    times: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    fitted: float
    held_out: float
    terms: Terms = Terms()
    prompt_extrapolation: tuple[tuple[float, ...], ...] = ()

    def factors(self) -> FittedFactors:
        """Return the sampler that runs it."""
        return FittedFactors(self.rows, self.times, self.terms, self.prompt_extrapolation)


@dataclasses.dataclass(frozen=True)
class Trial:
    """Describes one set of times, fitted, or one round of the optimizer, with its error on the fitted pictures (a
    round's own few).

    `uniform` is the error of the sampler itself on uniform times, as many as cost the same, on the held-out pictures.
    """

    index: int
    total: int
    loss: float
    best: FittedSolver
    uniform: float


def fit_bespoke(
    problem: Problem, settings: BespokeSettings = BespokeSettings(), seed: int = 0, previous: FittedSolver | None = None
) -> Iterator[Trial]:
    """Fit the factors to several sets of times, then move all together; yields as it goes, `best` of the last is the
    result.

    Args:
        problem: its sampler is the one whose place the factors take; one evaluation a step, no fresh noise.
        settings: of the fit.
        seed: of the changes of the times, and of the order of the pictures.
        previous: of the start "kept", where the optimizer goes on.

    Raises:
        MethodFitError: the sampler is another kind.
        SettingsError: there are fewer than two steps, a branch is to be left out where there are not two, prompt
        extrapolation is to be
            fitted where there are no two branches or no rounds.
        Cancelled: the fit was stopped.

    Source: Shaul et al., Bespoke non-stationary solvers, arXiv:2403.01329: the family of solvers, and the descent of
    the final error's gradient (`bespoke_descent`).
    Differs: begins with least squares, each row the solution for the long run's own latents at the step's end, which
    needs one short run and no gradient; and the branches of the guidance may have factors of their own. With
    `single_ends` the first and the last step evaluate the prompt's branch only, as adaptive guidance does in its last
    steps (Castillo et al., arXiv:2312.12487): at the start the other branch sees nothing but noise, at the end the two
    hardly differ. With `emphasis` the descent also moves the prompts that the network is given, as
    `PromptExtrapolation` says.
    """
    _require_fittable(problem)
    terms = choose_terms(problem, settings)
    levels = SCHEDULES["uniform"].build().levels(problem.noise_schedule, terms.evaluations(problem.num_steps))
    uniform = problem.error(levels, problem.held_out)
    small_problem = dataclasses.replace(problem, fitted=problem.fitted.first(_TRIED_ON))
    context = FitContext(problem, small_problem, settings, seed, uniform)
    if settings.start == "kept":
        yield from resume_fit(context, require_matching_terms(previous, terms))
    else:
        yield from _fit_anew(context, terms)


def _require_fittable(problem: Problem) -> None:
    count = problem.num_steps
    if count < 2:
        raise SettingsError("A solver of 1 step has nothing to learn. Choose 2 steps or more.")
    if problem.sampler.nfe(count) != count:
        raise MethodFitError(
            "Factors can be fitted in the place of samplers with one evaluation a step only. Choose another."
        )


@dataclasses.dataclass(frozen=True)
class FitContext:
    """Says what the parts of one fit share.

    Attributes:
        problem: of the fit.
        few: the same with the pictures on which sets of times are compared.
        settings: of the fit.
        seed: of the changes of the times, and of the order of the pictures.
        uniform: the error of the sampler itself on uniform times, on the held-out pictures.
    """

    problem: Problem
    small_problem: Problem
    settings: BespokeSettings
    seed: int
    uniform: float


def _fit_anew(context: FitContext, terms: Terms) -> Iterator[Trial]:
    """Try sets of times with their least-squares rows, then let the optimizer go on from the best."""
    problem, settings, rng = context.problem, context.settings, np.random.default_rng(context.seed)
    starting_times, more = list_starting_times(settings, problem), len(problem.fitted.cases) > _TRIED_ON
    last = len(starting_times) - 1 + settings.tries
    total = last + more + settings.rounds
    times, fit = starting_times[0], fit_rows(context.small_problem, starting_times[0], terms)
    solver = _judge_solver(problem, times, fit.rows, fit.loss, terms)
    yield Trial(0, total, fit.loss, solver, context.uniform)
    for index in range(1, last + 1):
        candidate = starting_times[index] if index < len(starting_times) else _perturb_times(times, rng)
        other = fit_rows(context.small_problem, candidate, terms)
        if other.loss < fit.loss:
            times, fit, solver = candidate, other, _judge_solver(problem, candidate, other.rows, other.loss, terms)
        yield Trial(index, total, other.loss, solver, context.uniform)
    if more:
        fit = fit_rows(problem, times, terms)
        solver = _judge_solver(problem, times, fit.rows, fit.loss, terms)
        yield Trial(last + 1, total, fit.loss, solver, context.uniform)
    if settings.rounds:
        first_trial = Trial(last + more, total, solver.fitted, solver, context.uniform)
        yield from _descend_from(context, first_trial, fit.squares)


def resume_fit(context: FitContext, solver: FittedSolver) -> Iterator[Trial]:
    """Let the optimizer go on from a solver that was fitted before; yields as it goes.

    Args:
        context: of the fit.
        solver: whose terms are those of the fit.

    Raises:
        Cancelled: the fit was stopped.
    """
    problem, factors = context.problem, solver.factors()
    loss = problem.error(learned_levels(solver.times, solver.times, problem.noise_schedule), problem.fitted, factors)
    judged = _judge_solver(problem, solver.times, solver.rows, loss, solver.terms, solver.prompt_extrapolation)
    first_trial = Trial(0, context.settings.rounds, loss, judged, context.uniform)
    yield first_trial
    yield from _descend_from(context, first_trial, collect_normal_matrices(context.small_problem, factors))


def require_matching_terms(solver: FittedSolver | None, terms: Terms) -> FittedSolver:
    """Return the solver, where its factors belong to these terms.

    Raises:
        SettingsError: there is none, or they do not.
    """
    if solver is None:
        raise SettingsError("No bespoke solver is kept for this run to go on from. Choose another start.")
    if solver.terms != terms:
        raise SettingsError(
            f"The kept solver combines {' and '.join(solver.terms.branches) or 'the guided estimate'}"
            f"{' with single ends' * bool(solver.terms.single)}, and the fit is to be another. Set branches and "
            "single_ends as it has them, or choose another start."
        )
    return solver


def _descend_from(context: FitContext, after: Trial, squares: Sequence[torch.Tensor]) -> Iterator[Trial]:
    """The optimizer's rounds from a trial's solver on."""
    problem, terms = context.problem, after.best.terms
    best = start = after.best
    roots = [inverse_root(candidate) for candidate in squares]
    rounds = descend(
        problem, start.times, start.rows, roots, terms, context.settings, context.seed, start.prompt_extrapolation
    )
    for index, descended in enumerate(rounds, after.index + 1):
        for candidate in (descended, descended.mean) if descended.mean else ():
            factors = FittedFactors(candidate.rows, candidate.times, terms, candidate.prompt_extrapolation)
            loss = problem.error(
                learned_levels(candidate.times, candidate.times, problem.noise_schedule), problem.fitted, factors
            )
            if loss < best.fitted:
                best = _judge_solver(
                    problem, candidate.times, candidate.rows, loss, terms, candidate.prompt_extrapolation
                )
        yield Trial(index, after.total, descended.loss, best, after.uniform)


def _judge_solver(
    problem: Problem,
    times: Sequence[float],
    rows: Sequence[Sequence[float]],
    loss: float,
    terms: Terms,
    prompt_extrapolation: tuple[tuple[float, ...], ...] = (),
) -> FittedSolver:
    levels = learned_levels(times, times, problem.noise_schedule)
    held_out = problem.error(levels, problem.held_out, FittedFactors(rows, times, terms, prompt_extrapolation))
    return FittedSolver(tuple(map(float, times)), tuple(map(tuple, rows)), loss, held_out, terms, prompt_extrapolation)


def _perturb_times(times: Sequence[float], rng: np.random.Generator) -> tuple[float, ...]:
    """Every time but the first moved by up to a sixth of a step's room."""
    ends = np.array([*times, 0.0])
    room = np.minimum(-np.diff(ends)[:-1], -np.diff(ends)[1:])
    return (ends[0].item(), *(ends[1:-1] + room * rng.uniform(-1 / 6, 1 / 6, len(room))).tolist())

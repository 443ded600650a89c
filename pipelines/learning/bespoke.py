"""Bespoke solvers: the factors of every step, fitted so that a run stays where a long run passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.registry import setting
from pipelines.learning.bespoke_descent import descend, inverse_root
from pipelines.learning.bespoke_rows import collect_normal_matrices, fit_rows
from pipelines.learning.problem import Problem
from pipelines.samplers.fitted_factors import FittedFactors, Terms
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned import learned_levels

__all__ = [
    "BespokeSettings",
    "FitContext",
    "FittedSolver",
    "Trial",
    "fit_bespoke",
    "list_starting_times",
    "require_matching_terms",
    "resume_fit",
]

_POWERS = (1.0, 1.2, 1.4, 1.7, 2.0)
"""Of the start "best": t_k = t_0 * (1 - (k / N)^p), which is uniform at 1 and densest at high noise at 2."""

_FIRST = (1.0, 0.97)
"""Of the start "best", where none is given: t_0 over the last trained time T. Nothing is seen at T but noise, so a run
may begin a little later."""

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
        """The sampler that runs it."""
        return FittedFactors(self.rows, self.times, self.terms, self.prompt_extrapolation)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One set of times, fitted, or one round of the optimizer, with its error on the fitted pictures (a round's own
    few).

    `uniform` is the error of the sampler itself on uniform times, as many as cost the same, on the held-out pictures.
    """

    index: int
    total: int
    loss: float
    best: FittedSolver
    uniform: float


def fit_bespoke(
    problem: Problem, settings: BespokeSettings = BespokeSettings(), seed: int = 0, kept: FittedSolver | None = None
) -> Iterator[Trial]:
    """Fit the factors to several sets of times, then move all together; yields as it goes, `best` of the last is the
    result.

    Args:
        problem: its sampler is the one whose place the factors take; one evaluation a step, no fresh noise.
        settings: of the fit.
        seed: of the changes of the times, and of the order of the pictures.
        kept: of the start "kept", where the optimizer goes on.

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
    hardly differ. With `emphasis` the descent also moves what the network is told of the prompts, as
    `PromptExtrapolation` says.
    """
    _require_fittable(problem)
    terms = _choose_terms(problem, settings)
    levels = SCHEDULES["uniform"].build().levels(problem.noise_schedule, terms.evaluations(problem.num_steps))
    uniform = problem.error(levels, problem.held_out)
    few = dataclasses.replace(problem, fitted=problem.fitted.first(_TRIED_ON))
    context = FitContext(problem, few, settings, seed, uniform)
    if settings.start == "kept":
        yield from resume_fit(context, require_matching_terms(kept, terms))
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
    """What the parts of one fit share.

    Attributes:
        problem: of the fit.
        few: the same with the pictures on which sets of times are compared.
        settings: of the fit.
        seed: of the changes of the times, and of the order of the pictures.
        uniform: the error of the sampler itself on uniform times, on the held-out pictures.
    """

    problem: Problem
    few: Problem
    settings: BespokeSettings
    seed: int
    uniform: float


def _fit_anew(context: FitContext, terms: Terms) -> Iterator[Trial]:
    """Try sets of times with their least-squares rows, then let the optimizer go on from the best."""
    problem, settings, rng = context.problem, context.settings, np.random.default_rng(context.seed)
    starts, more = list_starting_times(settings, problem), len(problem.fitted.cases) > _TRIED_ON
    last = len(starts) - 1 + settings.tries
    total = last + more + settings.rounds
    times, fit = starts[0], fit_rows(context.few, starts[0], terms)
    solver = _judge_solver(problem, times, fit.rows, fit.loss, terms)
    yield Trial(0, total, fit.loss, solver, context.uniform)
    for index in range(1, last + 1):
        tried = starts[index] if index < len(starts) else _perturb_times(times, rng)
        other = fit_rows(context.few, tried, terms)
        if other.loss < fit.loss:
            times, fit, solver = tried, other, _judge_solver(problem, tried, other.rows, other.loss, terms)
        yield Trial(index, total, other.loss, solver, context.uniform)
    if more:
        fit = fit_rows(problem, times, terms)
        solver = _judge_solver(problem, times, fit.rows, fit.loss, terms)
        yield Trial(last + 1, total, fit.loss, solver, context.uniform)
    if settings.rounds:
        begun = Trial(last + more, total, solver.fitted, solver, context.uniform)
        yield from _descend_from(context, begun, fit.squares)


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
    begun = Trial(0, context.settings.rounds, loss, judged, context.uniform)
    yield begun
    yield from _descend_from(context, begun, collect_normal_matrices(context.few, factors))


def require_matching_terms(solver: FittedSolver | None, terms: Terms) -> FittedSolver:
    """The solver, where its factors belong to these terms.

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
    shown = begun = after.best
    roots = [inverse_root(one) for one in squares]
    rounds = descend(
        problem, begun.times, begun.rows, roots, terms, context.settings, context.seed, begun.prompt_extrapolation
    )
    for index, reached in enumerate(rounds, after.index + 1):
        for one in (reached, reached.mean) if reached.mean else ():
            factors = FittedFactors(one.rows, one.times, terms, one.prompt_extrapolation)
            loss = problem.error(learned_levels(one.times, one.times, problem.noise_schedule), problem.fitted, factors)
            if loss < shown.fitted:
                shown = _judge_solver(problem, one.times, one.rows, loss, terms, one.prompt_extrapolation)
        yield Trial(index, after.total, reached.loss, shown, after.uniform)


def _choose_terms(problem: Problem, settings: BespokeSettings) -> Terms:
    """The guidance's branches where every level has the same several; else none, and the factors take the guided
    estimate.

    Raises:
        SettingsError: a branch is to be left out where there are not two, or no step in the middle.
    """
    levels = SCHEDULES["uniform"].build().levels(problem.noise_schedule, problem.num_steps)
    plans = {tuple(problem.guidance.plan(level)) for level in levels[:-1]}
    only = plans.pop()
    branches = only if settings.branches and not plans and len(only) > 1 else ()
    if settings.emphasis and not (branches and settings.rounds):
        raise SettingsError(
            "Prompt extrapolation can be fitted only where two branches have factors of their own, in rounds of the "
            "optimizer. "
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


def list_starting_times(settings: BespokeSettings, problem: Problem) -> list[tuple[float, ...]]:
    """The sets of N network times, descending, that a fit of these settings tries first."""
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

"""Settings of a Bespoke fit, and what they decide before it: the times that it tries and the terms of its factors."""

from __future__ import annotations

import dataclasses

from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.learning.problem import Problem
from pipelines.samplers.fitted_factors import Terms
from pipelines.schedules import SCHEDULES

__all__ = ["BespokeSettings", "choose_terms", "list_starting_times"]

_POWERS = (1.0, 1.2, 1.4, 1.7, 2.0)
"""Of the start "best": t_k = t_0 * (1 - (k / N)^p), which is uniform at 1 and densest at high noise at 2."""

_FIRST = (1.0, 0.97)
"""Of the start "best", where none is given: t_0 over the last trained time T. Nothing is seen at T but noise, so a run
may begin a little later."""

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
        "Of a picture's distance in the optimizer: at 1 an outlier pulls no harder than any "
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
        "Let the optimizer also move what the network is given in every step along the line from the "
        "negative prompt to the prompt, beyond it too: closer.",
    )


def choose_terms(problem: Problem, settings: BespokeSettings) -> Terms:
    """Choose the guidance's branches where every level has the same several; else none, and the factors take the guided
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
    """List the sets of N network times, descending, that a fit of these settings tries first."""
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

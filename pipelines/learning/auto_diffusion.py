"""AutoDiffusion: an evolutionary search for the best subset of the model's time steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.learning.problem import Problem
from pipelines.schedules.learned import learned_levels
from pipelines.schedules.uniform import uniform_times

__all__ = ["AutoDiffusionSettings", "Generation", "cross", "evolve", "mutate", "search"]

Candidate = tuple[int, ...]
"""Time steps, descending; the first is the model's last, where every run starts."""


@dataclasses.dataclass(frozen=True)
class AutoDiffusionSettings:
    population: int = setting(50, "Schedules in the first generation.", low=2, high=500, step=1)
    mutations: int = setting(
        25, "New schedules a generation that move some steps of a good one.", low=1, high=500, step=1
    )
    crossovers: int = setting(
        10, "New schedules a generation that take steps from two good ones.", low=0, high=500, step=1
    )
    parents: int = setting(10, "The best so far, from which new ones are made.", low=1, high=500, step=1)
    generations: int = setting(10, "Rounds of the search.", low=1, high=500, step=1)
    chance: float = setting(0.25, "Of each step of a mutated schedule to move.", low=0.01, high=1, step=0.01)


@dataclasses.dataclass(frozen=True)
class Generation:
    """Describes one round of the search.

    Attributes:
        index: from 0, the first population.
        total: rounds after that.
        errors: of the schedules that this round tried, ascending.
        best: the best schedule of all rounds.
        best_error: its own.
        uniform: the uniform schedule's.
    """

    index: int
    total: int
    errors: tuple[float, ...]
    best: Candidate
    best_error: float
    uniform: float


def mutate(parent: Candidate, last: int, chance: float, rng: np.random.Generator, lowest: int = 0) -> Candidate:
    """Return the parent with some steps, at least one, moved to free times between their neighbors' neighbors."""
    steps = list(parent)
    places = np.flatnonzero(rng.random(len(steps) - 1) < chance) + 1
    for place in places if len(places) else [rng.integers(1, len(steps))]:
        high = steps[place - 2] if place >= 2 else last
        low = steps[place + 2] if place + 2 < len(steps) else lowest
        free = sorted(set(range(low, high)) - set(steps))
        if free:
            steps[place] = free[rng.integers(len(free))]
            steps.sort(reverse=True)
    return tuple(steps)


def cross(first: Candidate, second: Candidate, rng: np.random.Generator) -> Candidate:
    """Draw as many steps as each parent has, drawn from both; the first stays."""
    pool = sorted(set(first[1:]) | set(second[1:]))
    return (first[0], *sorted(rng.choice(pool, len(first) - 1, replace=False).tolist(), reverse=True))


def search(
    error: Callable[[Candidate], float],
    uniform: Candidate,
    settings: AutoDiffusionSettings,
    seed: int = 0,
    first_candidates: Sequence[Candidate] = (),
    lowest: int = 0,
) -> Iterator[Generation]:
    """Run the evolution alone; the best of all rounds is kept, so it is never worse than `uniform` by this error.

    Args:
        error: of a candidate; each is measured once.
        uniform: the candidate that the search must not fall behind.
        settings: of the search.
        seed: of all its choices.
        first_candidates: further candidates of the first generation.
        lowest: time that a candidate may visit.

    Source: Li et al., AutoDiffusion, arXiv:2309.10438, algorithm 1 (search over time steps).
    Differs: subsets of time steps only, no skipped layers; a step moves between its neighbors' neighbors rather than
    anywhere, which keeps what a good parent has learned.
    """
    rng, last = np.random.default_rng(seed), uniform[0]
    errors_by_candidate: dict[Candidate, float] = {}

    def measure(batch: Sequence[Candidate]) -> list[float]:
        fresh = [candidate for candidate in dict.fromkeys(batch) if candidate not in errors_by_candidate]
        for candidate in fresh:
            value = error(candidate)
            errors_by_candidate[candidate] = value if math.isfinite(value) else math.inf
        return sorted(errors_by_candidate[candidate] for candidate in fresh)

    candidates = _begin(uniform, first_candidates, settings.population, rng, lowest)
    for index in range(settings.generations + 1):
        errors = measure(candidates)
        ranked = sorted(errors_by_candidate, key=lambda candidate: (errors_by_candidate[candidate], candidate))
        yield Generation(
            index,
            settings.generations,
            tuple(errors),
            ranked[0],
            errors_by_candidate[ranked[0]],
            errors_by_candidate[uniform],
        )
        parents = ranked[: settings.parents]
        candidates = [
            mutate(_pick_parent(parents, rng), last, settings.chance, rng, lowest) for _ in range(settings.mutations)
        ]
        candidates += [
            cross(_pick_parent(parents, rng), _pick_parent(parents, rng), rng) for _ in range(settings.crossovers)
        ]


def _begin(
    uniform: Candidate, first_candidates: Sequence[Candidate], count: int, rng: np.random.Generator, lowest: int
) -> list[Candidate]:
    """The first generation: what is given, then drawn candidates and mutants of the uniform one in turns."""
    last, candidates = uniform[0], [uniform, *first_candidates]
    while len(candidates) < count:
        if len(candidates) % 2:
            candidates.append(mutate(uniform, last, 0.5, rng, lowest))
        else:
            inner = rng.choice(np.arange(lowest, last), len(uniform) - 1, replace=False)
            candidates.append((last, *sorted(inner.tolist(), reverse=True)))
    return candidates


def _pick_parent(parents: Sequence[Candidate], rng: np.random.Generator) -> Candidate:
    return parents[int(rng.integers(len(parents)))]


def evolve(
    problem: Problem, settings: AutoDiffusionSettings = AutoDiffusionSettings(), seed: int = 0
) -> Iterator[Generation]:
    """Search the time steps of a sampler for the smallest error on the fitted pictures.

    Raises:
        SettingsError: there are fewer than two steps, or more than time steps.
        Cancelled: the search was stopped.
    """
    last = int(problem.last_time())
    if not 2 <= problem.num_steps <= last // 2:
        raise SettingsError(f"A search needs 2 to {last // 2} steps, not {problem.num_steps}. Choose another number.")

    def error(candidate: Candidate) -> float:
        if problem.cancelled():
            raise Cancelled
        return problem.error(learned_levels(candidate, candidate, problem.noise_schedule), problem.fitted)

    times = uniform_times(problem.noise_schedule, problem.num_steps, "trailing")
    uniform = (last, *(round(float(time)) for time in times[1:]))
    # At a flow's time 0 nothing is left to denoise: a step from there would divide by its noise.
    lowest = 1 if problem.noise_schedule.at(0).sigma == 0 else 0
    yield from search(error, uniform, settings, seed, lowest=lowest)

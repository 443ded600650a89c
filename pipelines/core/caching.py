"""What a cache is: parts of an evaluation left out, their outputs taken from earlier evaluations of the same run.

A run has a memory for each branch that it evaluates, and of that one for each sample. Rows of several runs stand in one
batch where their caches are equal and are about to do the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch

from pipelines.core.prediction import Conditioning, Network
from pipelines.core.schedule import Level

__all__ = ["BranchMemory", "Cache", "CachedRow", "FittedCache", "ForeseeingCache", "Place", "SteppedCache"]


@dataclasses.dataclass(frozen=True)
class Place:
    """A place says where a run stands as one of its branches is evaluated.

    Attributes:
        evaluation: of this branch in this run, from 0.
        step: of the run's whole schedule, from 0.
        num_steps: of that schedule.
        level: that is asked for.
        coming: levels of the next steps, as many as a `ForeseeingCache` asked for, in which the branch will be
            evaluated with the same conditioning as now; None where the present evaluation itself has another time or
            conditioning than its run announced.
    """

    evaluation: int
    step: int
    num_steps: int
    level: Level
    coming: tuple[Level, ...] | None = None


class CachedRow:
    """Holds what a cache remembers of one sample in one branch of one run.

    A remembered tensor is never changed in place, so that copying `state` clones the memory.

    Attributes:
        state: name to what finished evaluations left.
        pending: what the present evaluation leaves; it joins `state` once the evaluation is done, and is lost where it
            fails.
        place: where the run stands.
        ran: share of the network that the present evaluation runs for this sample, in multiply-adds; 0 to 1, or more
            where it answers coming evaluations, too.
        moved: share that an earlier evaluation ran for the present one; below 0, that this one runs for later ones.
    """

    __slots__ = ("moved", "pending", "place", "ran", "state")

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.pending: dict[str, Any] = {}
        self.place = Place(0, 0, 1, Level(1.0, 0.0, 0.0))
        self.ran = 1.0
        self.moved = 0.0

    def begin(self, place: Place) -> None:
        """Begin an evaluation; what an unfinished one left is dropped."""
        self.place, self.ran, self.moved = place, 1.0, 0.0
        self.pending = {}

    def finish(self) -> None:
        """Keep what the evaluation left."""
        self.state.update(self.pending)
        self.pending = {}


class BranchMemory:
    """Holds a cache's memory of one branch of one run.

    Args:
        count: samples of the run.

    Attributes:
        rows: a memory a sample.
        evaluations: of this branch so far.
    """

    def __init__(self, count: int):
        self.rows = [CachedRow() for _ in range(count)]
        self.evaluations = 0

    def begin(self, step: int, num_steps: int, level: Level, coming: tuple[Level, ...] | None = None) -> Place:
        """Begin the next evaluation of this branch."""
        place = Place(self.evaluations, step, num_steps, level, coming)
        for row in self.rows:
            row.begin(place)
        self.evaluations += 1
        return place


class Cache(Protocol):
    """A cache runs a network in part and takes the rest from earlier evaluations of the same branch of the same run.

    It holds settings alone; what it remembers stands in the rows. Equal caches share a batch.
    """

    def require_fit(self, network: Network) -> None:
        """Refuse a network in which there is nothing to leave out.

        Raises:
            MethodFitError: there is nothing, and why.
        """

    def plan(self, rows: Sequence[CachedRow]) -> Hashable:
        """Say what the next evaluation of these rows, of one branch of one run, does; equal plans share a batch."""

    def applied(self, network: Network, plan: Any, rows: Sequence[CachedRow]) -> AbstractContextManager[None]:
        """Change the network for one evaluation of these rows by a plan of this cache's own; whatever happens, it is as
        it was afterwards."""

    def __hash__(self) -> int: ...


@runtime_checkable
class ForeseeingCache(Cache, Protocol):
    """A cache whose evaluations may answer coming ones of the same branch, too."""

    def steps_ahead(self, step: int, num_steps: int) -> int:
        """Say how many of the next steps an evaluation in this step could answer beside its own."""

    def evaluate(
        self,
        network: Network,
        plan: Any,
        rows: Sequence[CachedRow],
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        """Answer as `network.predict_raw` does, for these rows, by a plan of this cache's own."""


@runtime_checkable
class SteppedCache(Cache, Protocol):
    """A cache that names steps of the run by their number."""

    def require_steps(self, num_steps: int) -> None:
        """Refuse a run of so many steps where a named one is not among them.

        Raises:
            SettingsError: which it is.
        """


@runtime_checkable
class FittedCache(Cache, Protocol):
    """A cache that was fitted to one model and its levels."""

    def require_model(self, model: str, num_steps: int | None) -> None:
        """Refuse another model, by its key, and another number of steps; None for one that is not known yet.

        Raises:
            MethodFitError: it was fitted to others, and to which.
        """

    def require_run(self, model: str, levels: Sequence[Level]) -> None:
        """Refuse another model, by its key, and other levels.

        Raises:
            MethodFitError: it was fitted to others, and to which.
        """

"""One evaluation of a network for several branches: their rows side by side, as many at once as the memory holds.

What a branch is for, and which run it belongs to, is not known here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext

import torch

from pipelines.core.caching import Cache, CachedRow, ForeseeingCache
from pipelines.core.cancelling import raise_if
from pipelines.core.devices import is_out_of_memory, release_unused_memory
from pipelines.core.prediction import Conditioning, Network, NetworkInParts, Perturbation, Query, RowMemory
from pipelines.core.rows import halve_rows, rows_at_once

__all__ = ["Branch", "Remembered", "evaluate_branches"]


@dataclasses.dataclass(frozen=True)
class Remembered:
    """Holds a cache, what it is about to do, and what it remembers of each row."""

    cache: Cache
    plan: Hashable
    rows: Sequence[CachedRow]

    @property
    def ran(self) -> float:
        """The share of the network that was run, of the rows' mean."""
        return sum(row.ran for row in self.rows) / len(self.rows)

    @property
    def moved(self) -> float:
        """The share of the network that was run for these rows before, or below 0 for later, of the rows' mean."""
        return sum(row.moved for row in self.rows) / len(self.rows)


@dataclasses.dataclass(frozen=True)
class Branch:
    """Holds rows that share a conditioning, and what they are evaluated with.

    Attributes:
        owner: index of the run that asks.
        name: of the term of its guidance.
        query: latents (B, C, h, w) and their levels.
        conditioning: of B rows.
        network: that is evaluated.
        perturbation: what is changed in the network meanwhile; None for nothing.
        remembered: what a cache does in this evaluation; None without a cache.
    """

    owner: int
    name: str
    query: Query
    conditioning: Conditioning
    network: Network
    perturbation: Perturbation | None
    remembered: Remembered | None

    @property
    def evaluations(self) -> float:
        """How many evaluations of the network this one counts as."""
        if self.remembered is not None:
            return self.remembered.ran
        if isinstance(self.network, NetworkInParts):
            return self.network.parts(self.query.latents, self.query.timesteps, self.conditioning)
        return 1

    @property
    def group(self) -> Hashable:
        """What branches have in common that can share an evaluation."""
        latents, place = self.query.latents, (id(self.network), self.query.is_differentiable)
        cached = self.remembered and (self.remembered.cache, self.remembered.plan)
        return (place, tuple(latents.shape[1:]), latents.dtype, self.conditioning.signature, self.perturbation, cached)


class _Batch:
    """The rows of branches of one group, joined.

    Gradients are recorded where the first branch's query wants them, or where the caller does.
    """

    def __init__(self, branches: Sequence[Branch]):
        first = branches[0]
        self.network, self.perturbation, self.remembered = first.network, first.perturbation, first.remembered
        self.with_gradients = torch.is_grad_enabled() or first.query.is_differentiable
        self.memories = [row for branch in branches if branch.remembered for row in branch.remembered.rows]
        with torch.set_grad_enabled(self.with_gradients):
            self.latents = torch.cat([branch.query.latents for branch in branches])
            self.conditioning = Conditioning.cat([branch.conditioning for branch in branches])
        self.timesteps = torch.cat([branch.query.timesteps for branch in branches])

    def evaluate(self, start: int, end: int) -> torch.Tensor:
        """Evaluate some of the rows; the cache takes note of them when all is done."""
        part, memories = slice(start, end), self.memories[start:end]
        inputs = self.latents[part], self.timesteps[part], self.conditioning.rows(start, end)
        raw = self._predict(memories, *inputs)
        for row in memories:
            row.finish()
        return raw

    def _predict(
        self, memories: list[CachedRow], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        if self.remembered is None:
            return self.network.predict_raw(latents, timesteps, conditioning)
        cache, plan = self.remembered.cache, self.remembered.plan
        if isinstance(cache, ForeseeingCache):
            return cache.evaluate(self.network, plan, memories, latents, timesteps, conditioning)
        with cache.applied(self.network, plan, memories):
            return self.network.predict_raw(latents, timesteps, conditioning)

    def shrink(self, start: int, end: int, rows: int) -> None:
        """After an evaluation that the memory did not hold: rows begin anew, and the network learns what to try."""
        for row in self.memories[start:end]:
            row.begin(row.place)
        if isinstance(self.network, RowMemory):
            self.network.remember_rows(self.latents[0], rows)
        else:
            self.network.max_rows = rows
        release_unused_memory(self.latents.device)


def evaluate_branches(branches: Sequence[Branch], is_cancelled: Callable[[], bool]) -> list[torch.Tensor]:
    """Evaluate branches of one group, at most `max_rows` rows at a time.

    Where the device's memory does not hold so many, they are halved, and the network remembers how many it held.

    Args:
        branches: all of the same `group`.
        is_cancelled: asked before every evaluation.

    Returns:
        The raw outputs (B, C, h, w) of each branch.

    Raises:
        Cancelled: `is_cancelled` said so.
        RuntimeError: not even the fewest rows fit; `is_out_of_memory` says so of it.
    """
    batch = _Batch(branches)
    # Inference mode saves a few per cent on a small network; the copy of the outputs is an ordinary tensor again.
    perturbed = batch.perturbation.applied(batch.network) if batch.perturbation is not None else nullcontext()
    with torch.enable_grad() if batch.with_gradients else torch.inference_mode(), perturbed:
        parts = _evaluate_in_parts(batch, is_cancelled)
    with torch.set_grad_enabled(batch.with_gradients):
        return list(torch.split(torch.cat(parts), [len(branch.query.latents) for branch in branches]))


def _evaluate_in_parts(batch: _Batch, is_cancelled: Callable[[], bool]) -> list[torch.Tensor]:
    parts: list[torch.Tensor] = []
    start, rows = 0, rows_at_once(batch.network, batch.latents)
    while start < len(batch.latents):
        raise_if(is_cancelled)
        end = min(start + rows, len(batch.latents))
        try:
            parts.append(batch.evaluate(start, end))
            start = end
            continue
        except RuntimeError as error:
            smaller = halve_rows(batch.network, end - start) if is_out_of_memory(error) else 0
            if not smaller:
                raise
        # Outside the handler, whose traceback keeps the tensors of the failed evaluation.
        batch.shrink(start, end, smaller)
        rows = smaller
    return parts

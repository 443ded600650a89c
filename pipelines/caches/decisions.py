"""What caches share that decide at each evaluation, row by row, whether a transformer's further blocks are run."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Sequence

import torch

from pipelines.caches.networks import find_module, measured_work, require_module, work_of
from pipelines.caches.rows import join_rows, split_rows
from pipelines.caches.split_rows import split_by_row
from pipelines.caches.stack_cut import list_blocks
from pipelines.core.caching import CachedRow
from pipelines.core.errors import MethodFitError
from pipelines.core.prediction import Network

__all__ = ["DecidingCache", "relative_change"]

_WHOLE, _DECIDE = "whole", "decide"
_SEEN, _ADDED, _GONE = "seen", "added", "gone"


def relative_change(now: torch.Tensor, before: torch.Tensor) -> list[float]:
    """Compute each row's mean absolute difference over the mean absolute value before, of (R, ...) tensors."""
    axes = tuple(range(1, now.ndim))
    change = (now - before).abs().float().mean(axes) / before.abs().float().mean(axes).clamp(min=1e-12)
    values: list[float] = change.tolist()
    return values


class DecidingCache(abc.ABC):
    """Runs a transformer's first blocks, and the others where what it watches has changed enough since.

    Attributes:
        depth: blocks that are always run.
        threshold: of the change from which on the others are run; 0 runs them always.
        warmup: evaluations that run them whatever the change.
        most: evaluations in a row that may leave them out.
    """

    depth: int
    threshold: float
    warmup: int
    most: int

    @abc.abstractmethod
    def watch(self, entered: torch.Tensor, hidden: torch.Tensor, block: object, temb: torch.Tensor) -> torch.Tensor:
        """Return what is watched, (R, ...); the arguments are those of `RowDecisions.decide`."""

    @abc.abstractmethod
    def count(self, change: float, gone: float) -> float:
        """Return the change that is held against the threshold, of this one and of what has gone on so far."""

    is_compared_with_last_run = False
    """Whether a change is that since the last evaluation that ran all blocks, or since the last one of all."""

    def require_fit(self, network: Network) -> None:
        module = require_module(network)
        if not hasattr(module, "transformer_blocks"):
            raise MethodFitError("This network has no transformer's blocks, which a cache could leave out.")
        if self.depth >= len(list_blocks(module)):
            raise MethodFitError("This transformer has one block alone, and none that a cache could leave out.")

    def plan(self, rows: Sequence[CachedRow]) -> str:
        return _DECIDE if rows[0].state else _WHOLE

    @contextlib.contextmanager
    def applied(self, network: Network, plan: str, rows: Sequence[CachedRow]) -> Iterator[None]:
        module = find_module(network)
        with measured_work(module, rows), split_by_row(module, _Decisions(self, rows, module)):
            yield


class _Decisions:
    """One evaluation's decisions."""

    def __init__(self, cache: DecidingCache, rows: Sequence[CachedRow], module: torch.nn.Module):
        self._cache, self._rows, self._module = cache, rows, module
        self.depth = cache.depth

    def decide(self, entered: torch.Tensor, hidden: torch.Tensor, block: object, temb: torch.Tensor) -> list[bool]:
        cache, rows = self._cache, self._rows
        seen = cache.watch(entered, hidden, block, temb)
        parts = split_rows(seen, len(rows))
        if not all(row.state for row in rows):
            for row, part in zip(rows, parts, strict=True):
                row.pending |= {_SEEN: part, _GONE: (0.0, 0)}
            return [True] * len(rows)
        changes = relative_change(seen, join_rows([row.state[_SEEN] for row in rows]))
        skipped = work_of(rows).share(list_blocks(self._module)[cache.depth :])
        wanted = []
        for row, part, change in zip(rows, parts, changes, strict=True):
            gone, rested = row.state[_GONE]
            gone = cache.count(change, gone)
            is_run = not gone < cache.threshold or row.place.evaluation < cache.warmup or rested >= cache.most
            wanted.append(is_run)
            row.pending[_GONE] = (0.0, 0) if is_run else (gone, rested + 1)
            if is_run or not cache.is_compared_with_last_run:
                row.pending[_SEEN] = part
            row.ran = 1.0 if is_run else 1 - skipped
        return wanted

    def keep(self, indices: Sequence[int], added: torch.Tensor) -> None:
        for index, part in zip(indices, split_rows(added, len(indices)), strict=True):
            self._rows[index].pending[_ADDED] = part

    def recall(self, indices: Sequence[int]) -> torch.Tensor:
        added: torch.Tensor = join_rows([self._rows[index].state[_ADDED] for index in indices])
        return added

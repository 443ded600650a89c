"""Temporal delta cache: a transformer's block rests while what it adds has stayed the same."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from pipelines.caches.decisions import relative_change
from pipelines.caches.networks import find_module, measured_work, replaced_forwards, require_module, work_of
from pipelines.caches.rows import join_rows, split_rows
from pipelines.caches.stack_cut import list_blocks
from pipelines.core.caching import CachedRow
from pipelines.core.errors import MethodFitError
from pipelines.core.prediction import Network
from pipelines.core.registry import setting

__all__ = ["TemporalDelta", "TemporalDeltaSettings"]


@dataclasses.dataclass(frozen=True)
class TemporalDeltaSettings:
    threshold: float = setting(
        0.1,
        "Relative change of what a block adds, from one run of it to the next, below which it rests; 0 never.",
        low=0,
        high=1,
        step=0.01,
    )
    warmup: int = setting(3, "Evaluations that run all blocks at first.", low=1, high=50, step=1)
    most: int = setting(2, "Evaluations in a row that a block may rest.", low=1, high=50, step=1, label="Most in a row")


@dataclasses.dataclass(frozen=True)
class TemporalDelta:
    """Lets each block of a transformer rest, and adds what it added last, once that has stopped changing.

    Source: 6Bit-Diffusion's temporal delta cache, as its abstract states it: a block is skipped whose input-output
        residual has stayed the same.
    Differs: written from the abstract alone. Whether a block rests follows from its last two runs, sample by sample,
        and it rests for a fixed number of evaluations at most.
    """

    threshold: float = 0.1
    warmup: int = 3
    most: int = 2

    @classmethod
    def build(cls, settings: TemporalDeltaSettings = TemporalDeltaSettings()) -> TemporalDelta:
        return cls(settings.threshold, settings.warmup, settings.most)

    def require_fit(self, network: Network) -> None:
        module = require_module(network)
        if not hasattr(module, "transformer_blocks"):
            raise MethodFitError("This network has no transformer's blocks, which a cache could leave out.")
        list_blocks(module)

    def plan(self, rows: Sequence[CachedRow]) -> bool:
        return bool(rows[0].state)

    @contextlib.contextmanager
    def applied(self, network: Network, plan: bool, rows: Sequence[CachedRow]) -> Iterator[None]:
        module = find_module(network)
        forwards: dict[torch.nn.Module, Callable[..., Any]] = {
            block: _Block(self, block, f"block {index}", rows).forward
            for index, block in enumerate(list_blocks(module))
        }
        with measured_work(module, rows), replaced_forwards(forwards):
            yield


@dataclasses.dataclass(frozen=True)
class _Past:
    """What a row remembers of a block: what it added to picture and text, whether that stood still, and its rests."""

    added: Any
    is_still: bool
    rests: int


class _Block:
    """One block in one evaluation."""

    def __init__(self, cache: TemporalDelta, block: Any, key: str, rows: Sequence[CachedRow]):
        self._cache, self._block, self._key, self._rows = cache, block, key, rows
        self._run = block.forward

    def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: Any, temb: Any, **keywords: Any) -> Any:
        resting = [index for index, row in enumerate(self._rows) if self._may_rest(row)]
        if not resting:
            texts, hidden = self._run(hidden_states, encoder_hidden_states, temb, **keywords)
            self._remember(range(len(self._rows)), _subtract(hidden, hidden_states, texts, encoder_hidden_states))
            return texts, hidden
        added = join_rows([self._rows[index].state[self._key].added for index in resting])
        self._rest(resting)
        if len(resting) == len(self._rows):
            return _add(encoder_hidden_states, added[1]), hidden_states + added[0]
        active = [index for index in range(len(self._rows)) if index not in resting]
        inputs = hidden_states[active], encoder_hidden_states[active]
        texts, hidden = self._run(*inputs, temb[active], **keywords)
        self._remember(active, _subtract(hidden, inputs[0], texts, inputs[1]))
        joined = _scatter(hidden_states, (active, hidden), (resting, hidden_states[resting] + added[0]))
        if texts is None:
            return None, joined
        rested = encoder_hidden_states[resting] + added[1]
        return _scatter(encoder_hidden_states, (active, texts), (resting, rested)), joined

    def _may_rest(self, row: CachedRow) -> bool:
        past: _Past | None = row.state.get(self._key)
        is_warm = row.place.evaluation >= self._cache.warmup
        return past is not None and is_warm and past.is_still and past.rests < self._cache.most

    def _rest(self, indices: Sequence[int]) -> None:
        share = work_of(self._rows).share([self._block])
        for index in indices:
            row = self._rows[index]
            past: _Past = row.state[self._key]
            row.pending[self._key] = dataclasses.replace(past, rests=past.rests + 1)
            row.ran -= share

    def _remember(self, indices: Sequence[int], added: Any) -> None:
        rows = [self._rows[index] for index in indices]
        changes = [1.0] * len(rows)
        if all(self._key in row.state for row in rows):
            before = join_rows([row.state[self._key].added for row in rows])
            changes = relative_change(added[0], before[0])
        for row, part, change in zip(rows, split_rows(added, len(rows)), changes, strict=True):
            row.pending[self._key] = _Past(part, change < self._cache.threshold, 0)


def _subtract(hidden: torch.Tensor, before: torch.Tensor, texts: Any, texts_before: Any) -> Any:
    return hidden - before, None if texts is None else texts - texts_before


def _add(texts: Any, added: Any) -> Any:
    """The text's tokens, where the block passes any on."""
    return None if added is None else texts + added


def _scatter(like: torch.Tensor, *parts: tuple[Sequence[int], torch.Tensor]) -> torch.Tensor:
    joined = torch.empty_like(like)
    for indices, rows in parts:
        joined[list(indices)] = rows
    return joined

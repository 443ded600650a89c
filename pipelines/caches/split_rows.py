"""A transformer whose further blocks are run for some rows of a batch and left out for the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch

from pipelines.caches.networks import replaced_forwards
from pipelines.caches.stack_cut import list_blocks, pass_on
from pipelines.core.errors import MethodFitError

__all__ = ["RowDecisions", "split_by_row"]


class RowDecisions(Protocol):
    """Decides for each row whether the further blocks are run, and remembers what they add.

    Attributes:
        depth: blocks that are always run.
    """

    depth: int

    def decide(self, entered: torch.Tensor, hidden: torch.Tensor, block: object, temb: torch.Tensor) -> Sequence[bool]:
        """Say of each row whether the further blocks are run.

        Args:
            entered: the picture's tokens (R, L, D) before the first block.
            hidden: before the first of the further blocks.
            block: that one.
            temb: embedding of the time (R, D).
        """

    def keep(self, indices: Sequence[int], added: torch.Tensor) -> None:
        """Remember what the further blocks added to these rows, (r, L, D)."""

    def recall(self, indices: Sequence[int]) -> torch.Tensor:
        """Return what they had added to these rows, (r, L, D)."""


@contextlib.contextmanager
def split_by_row(transformer: object, decisions: RowDecisions) -> Iterator[None]:
    """Let a transformer decide row by row while the context lasts.

    Raises:
        MethodFitError: the network has no further blocks.
    """
    blocks = list_blocks(transformer)
    if decisions.depth >= len(blocks):
        raise MethodFitError(
            f"This transformer has {len(blocks)} blocks, of which a cache always runs {decisions.depth}: none is left "
            "to leave out."
        )
    with replaced_forwards(_Split(blocks, decisions).forwards):
        yield


class _Split:
    """One evaluation: its further blocks see the rows alone that need them."""

    def __init__(self, blocks: Sequence[Any], decisions: RowDecisions):
        self._decisions = decisions
        self._further = blocks[decisions.depth :]
        self._run = {block: block.forward for block in [blocks[0], *self._further]}
        self.forwards: dict[torch.nn.Module, Callable[..., Any]] = {
            block: self._wrap(block) for block in [*self._further, blocks[0]]
        }

    def _wrap(self, block: Any) -> Callable[..., Any]:
        def forward(hidden_states: torch.Tensor, encoder_hidden_states: Any, temb: Any, **keywords: Any) -> Any:
            if block not in self._further or block is self._further[0]:
                self._enter(block, hidden_states, temb)
            if block not in self._further:
                return self._run[block](hidden_states, encoder_hidden_states, temb, **keywords)
            return self._go_on(block, hidden_states, encoder_hidden_states, temb, keywords)

        return forward

    def _enter(self, block: object, hidden: torch.Tensor, temb: torch.Tensor) -> None:
        if block not in self._further:
            self._entered = hidden
            return
        if self._decisions.depth == 0:
            self._entered = hidden
        wanted = self._decisions.decide(self._entered, hidden, block, temb)
        self._active = [index for index, is_wanted in enumerate(wanted) if is_wanted]
        self._resting = [index for index, is_wanted in enumerate(wanted) if not is_wanted]
        self._before = hidden

    def _go_on(
        self, block: object, hidden: torch.Tensor, texts: Any, temb: torch.Tensor, keywords: dict[str, Any]
    ) -> Any:
        is_first, is_last = block is self._further[0], block is self._further[-1]
        if not self._active:
            hidden = hidden + self._decisions.recall(self._resting) if is_first else hidden
            return pass_on(hidden, texts)
        if self._resting:
            if is_first:
                hidden, texts = hidden[self._active], texts[self._active]
            temb = temb[self._active]
        texts, hidden = self._run[block](hidden, texts, temb, **keywords)
        return (texts, self._join(hidden)) if is_last else (texts, hidden)

    def _join(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self._resting:
            self._decisions.keep(self._active, hidden - self._before)
            return hidden
        self._decisions.keep(self._active, hidden - self._before[self._active])
        joined = self._before.clone()
        joined[self._active] = hidden
        joined[self._resting] += self._decisions.recall(self._resting)
        return joined

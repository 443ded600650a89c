"""A transformer cut behind its first blocks: the others are left out, and what they add is given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pipelines.caches.networks import replaced_forwards
from pipelines.core.errors import MethodFitError

__all__ = ["StackCut", "list_blocks", "pass_on"]


def list_blocks(transformer: object) -> list[Any]:
    """List a transformer's blocks in their order: those of two streams, then those of one.

    Raises:
        MethodFitError: there are none.
    """
    blocks = [*getattr(transformer, "transformer_blocks", ()), *getattr(transformer, "single_transformer_blocks", ())]
    if not blocks:
        raise MethodFitError("This transformer has no blocks that a cache could leave out.")
    return blocks


class StackCut:
    """Cuts a transformer of Stable Diffusion 3's or FLUX's kind behind its first blocks.

    The feature is what the further blocks add to the picture's tokens: it is remembered in the place of the tokens
    themselves, so that what the picture has become by then is not lost.

    Args:
        transformer: of diffusers; a block takes and returns the tokens of picture and text.
        depth: blocks that are always run.

    Attributes:
        skipped: the blocks that are left out.

    Raises:
        MethodFitError: the network has no further blocks.

    Source: Chen et al., Delta-DiT, arXiv:2406.01125, section 3.2: the residual is cached, not the feature.
    """

    def __init__(self, transformer: object, depth: int):
        self._blocks = list_blocks(transformer)
        if depth >= len(self._blocks):
            count = len(self._blocks)
            raise MethodFitError(f"This transformer has {count} blocks: choose a depth of at most {count - 1}.")
        self._depth = depth
        self.skipped = tuple(self._blocks[depth:])

    @contextlib.contextmanager
    def captured(self, keep: Callable[[torch.Tensor], None]) -> Iterator[None]:
        first, last = self.skipped[0], self.skipped[-1]
        before: list[torch.Tensor] = []
        run_first, run_last = first.forward, last.forward

        def enter(hidden_states: torch.Tensor, *arguments: object, **keywords: object) -> Any:
            before[:] = [hidden_states]
            return (
                leave(hidden_states, *arguments, **keywords)
                if first is last
                else run_first(hidden_states, *arguments, **keywords)
            )

        def leave(hidden_states: torch.Tensor, *arguments: object, **keywords: object) -> Any:
            texts, hidden = run_last(hidden_states, *arguments, **keywords)
            keep(hidden - before[0])
            return texts, hidden

        with replaced_forwards({last: leave, first: enter}):
            yield

    @contextlib.contextmanager
    def resumed(self, feature: torch.Tensor) -> Iterator[None]:
        forwards: dict[torch.nn.Module, Callable[..., Any]] = dict.fromkeys(self.skipped, pass_on)

        def add(hidden_states: torch.Tensor, encoder_hidden_states: object, *_: object, **__: object) -> Any:
            return encoder_hidden_states, hidden_states + feature

        forwards[self.skipped[0]] = add
        with replaced_forwards(forwards):
            yield


def pass_on(hidden_states: torch.Tensor, encoder_hidden_states: object = None, *_: object, **__: object) -> Any:
    """Stand in the place of a left-out block."""
    return encoder_hidden_states, hidden_states

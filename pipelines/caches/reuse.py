"""What caches share that take whole outputs of chosen modules from earlier evaluations."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch

from pipelines.caches.networks import find_module, measured_work, replaced_forwards, require_module, work_of
from pipelines.caches.rows import join_rows, split_rows
from pipelines.core.caching import CachedRow, Place
from pipelines.core.errors import MethodFitError
from pipelines.core.prediction import Network

__all__ = ["ReusingCache", "named_layers"]

_MODULES = "modules"

Groups = Mapping[str, Sequence["torch.nn.Module"]]
"""Modules whose outputs are reused at the same evaluations, by the group's name."""


def named_layers(module: torch.nn.Module, *endings: str) -> list[torch.nn.Module]:
    """List the modules whose names end so, in the network's order."""
    return [part for name, part in module.named_modules() if name.rpartition(".")[2] in endings]


class ReusingCache(abc.ABC):
    """Runs groups of modules at some evaluations, and takes their last outputs at the others."""

    @abc.abstractmethod
    def groups(self, module: torch.nn.Module) -> Groups:
        """Choose the modules of a network.

        Raises:
            MethodFitError: it has none.
        """

    @abc.abstractmethod
    def reused(self, place: Place) -> tuple[str, ...]:
        """Name the groups whose outputs are reused at a place; at the first, none is."""

    def require_fit(self, network: Network) -> None:
        if not any(self.groups(require_module(network)).values()):
            raise MethodFitError("This network has no layers of the kind whose outputs this cache takes again.")

    def plan(self, rows: Sequence[CachedRow]) -> Hashable:
        return self.reused_now(rows)

    def reused_now(self, rows: Sequence[CachedRow]) -> tuple[str, ...]:
        """Name the groups whose outputs are reused in the present evaluation of rows; none in their first."""
        return self.reused(rows[0].place) if rows[0].state else ()

    @contextlib.contextmanager
    def applied(self, network: Network, plan: tuple[str, ...], rows: Sequence[CachedRow]) -> Iterator[None]:
        module = find_module(network)
        groups: Groups = rows[0].state.get(_MODULES) or self.groups(module)
        forwards: dict[torch.nn.Module, Callable[..., Any]] = {}
        for name, parts in groups.items():
            for index, part in enumerate(parts):
                make = _recalled if name in plan else _remembered
                forwards[part] = make(part, f"{name} {index}", rows)
        if plan:
            share = 1 - work_of(rows).share([part for name in plan for part in groups.get(name, ())])
            for row in rows:
                row.ran = share
        with measured_work(module, rows), replaced_forwards(forwards):
            yield
        for row in rows:
            row.pending[_MODULES] = groups


def _remembered(module: torch.nn.Module, key: str, rows: Sequence[CachedRow]) -> Callable[..., Any]:
    run = module.forward

    def forward(*arguments: object, **keywords: object) -> Any:
        output = run(*arguments, **keywords)
        for row, part in zip(rows, split_rows(output, len(rows)), strict=True):
            row.pending[key] = part
        return output

    return forward


def _recalled(module: torch.nn.Module, key: str, rows: Sequence[CachedRow]) -> Callable[..., Any]:
    def forward(*_: object, **__: object) -> Any:
        return join_rows([row.state[key] for row in rows])

    return forward

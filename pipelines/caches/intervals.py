"""What caches share that run the whole network now and then, and in between go on from what it left at a cut."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pipelines.caches.cuts import Cut, find_cut
from pipelines.caches.networks import find_module, measured_work, require_module, work_of
from pipelines.caches.rows import RowOf, join_rows, split_rows
from pipelines.core.caching import CachedRow, Place
from pipelines.core.prediction import Network

__all__ = ["WHOLE", "CutCache"]

WHOLE = "whole"
"""The plan of an evaluation that runs the whole network."""

_PART = "part"
_CUT, _PAST = "cut", "past"


class CutCache:
    """Runs the network behind a cut from a feature that earlier evaluations of the branch left there.

    A subclass says when, in `is_whole`, and what the feature is, in `weights`.

    Attributes:
        depth: of the cut.
        memories: features that are remembered.
    """

    depth: int
    memories: int = 1

    def require_fit(self, network: Network) -> None:
        find_cut(require_module(network), self.depth)

    def is_whole(self, place: Place) -> bool:
        """Say whether the whole network is run at this place; always at the first."""
        raise NotImplementedError

    def weights(self, times: Sequence[float], time: float) -> Sequence[float]:
        """Say how the feature is put together.

        Args:
            times: of the network, at which the features were remembered, the latest first.
            time: now.

        Returns:
            A factor for each of the first of them.
        """
        return (1.0,)

    def plan(self, rows: Sequence[CachedRow]) -> str:
        return WHOLE if not rows[0].state or self.is_whole(rows[0].place) else _PART

    @contextlib.contextmanager
    def applied(self, network: Network, plan: str, rows: Sequence[CachedRow]) -> Iterator[None]:
        module = find_module(network)
        cut: Cut = rows[0].state.get(_CUT) or find_cut(module, self.depth)
        if plan == _PART:
            share = 1 - work_of(rows).share(cut.skipped)
            for row in rows:
                row.ran = share
            with cut.resumed(self._foresee(rows)):
                yield
            return

        def keep(feature: torch.Tensor) -> None:
            for row, part in zip(rows, split_rows(feature, len(rows)), strict=True):
                time = row.place.level.timestep
                past = [one for one in row.state.get(_PAST, ()) if one[0] != time]
                row.pending[_PAST] = ((time, part), *past[: self.memories - 1])

        with measured_work(module, rows), cut.captured(keep):
            yield
        for row in rows:
            row.pending[_CUT] = cut

    def _foresee(self, rows: Sequence[CachedRow]) -> torch.Tensor:
        """Put the feature of each row together, (R, ...)."""
        weights, pasts = [], []
        for row in rows:
            past: tuple[tuple[float, RowOf], ...] = row.state[_PAST]
            weights.append(self.weights([time for time, _ in past], row.place.level.timestep))
            pasts.append([part for _, part in past])
        length = max(len(one) for one in weights)
        if length == 1 and all(one[0] == 1.0 for one in weights):
            latest: torch.Tensor = join_rows([past[0] for past in pasts])
            return latest
        feature: Any = 0
        for place in range(length):
            parts = join_rows([past[min(place, len(past) - 1)] for past in pasts])
            factors = [one[place] if place < len(one) else 0.0 for one in weights]
            if len(set(factors)) == 1:
                feature = feature + factors[0] * parts
            else:
                shape = (-1, *[1] * (parts.ndim - 1))
                feature = feature + torch.tensor(factors, dtype=parts.dtype, device=parts.device).view(shape) * parts
        return feature

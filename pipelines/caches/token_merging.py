"""Token merging (ToMe): self-attention sees fewer tokens, of which like ones are merged."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from pipelines.caches.merging import match_tokens
from pipelines.caches.networks import find_module, measured_work, replaced_forwards, require_module, work_of
from pipelines.core.caching import CachedRow
from pipelines.core.errors import MethodFitError
from pipelines.core.prediction import Network
from pipelines.core.registry import setting
from pipelines.guidance.perturbations import note_grids, self_attentions

__all__ = ["TokenMerging", "TokenMergingSettings"]

_WHOLE, _MERGED = "whole", "merged"
PLACES = ("largest", "all")


@dataclasses.dataclass(frozen=True)
class TokenMergingSettings:
    ratio: float = setting(0.5, "Share of the tokens that is merged; 0 for none.", low=0, high=0.75, step=0.05)
    place: str = setting(
        "largest", "Layers of self-attention: those of the largest grid, or all.", choices=PLACES, label="Layers"
    )
    warmup: int = setting(1, "Evaluations that merge nothing at first.", low=1, high=50, step=1)


@dataclasses.dataclass(frozen=True)
class TokenMerging:
    """Merges like tokens before self-attention, and gives each its share of the result afterwards.

    Source: Bolya & Hoffman, Token merging for fast Stable Diffusion, arXiv:2303.17604; ratio 0.5 of the largest grid's
        self-attention is theirs.
    Differs: the first evaluation is whole, since it measures what a layer costs; the tokens that others are merged into
        are the corners of squares of 2 x 2, where theirs are drawn by chance.
    """

    ratio: float = 0.5
    place: str = "largest"
    warmup: int = 1

    @classmethod
    def build(cls, settings: TokenMergingSettings = TokenMergingSettings()) -> TokenMerging:
        return cls(settings.ratio, settings.place, settings.warmup)

    def require_fit(self, network: Network) -> None:
        module = require_module(network)
        if not hasattr(module, "up_blocks"):
            raise MethodFitError("This network has no UNet's self-attention, whose tokens could be merged.")
        self_attentions(module, "all")

    def plan(self, rows: Sequence[CachedRow]) -> str:
        is_merged = self.ratio and rows[0].state and rows[0].place.evaluation >= self.warmup
        return _MERGED if is_merged else _WHOLE

    @contextlib.contextmanager
    def applied(self, network: Network, plan: str, rows: Sequence[CachedRow]) -> Iterator[None]:
        module = find_module(network)
        layers = self_attentions(module, "all")
        with note_grids(module, layers) as grids:
            if plan == _WHOLE:
                with measured_work(module, rows):
                    yield
                for row in rows:
                    row.pending["grids"] = dict(grids)
                return
            known = rows[0].state["grids"]
            largest = max(height * width for height, width in known.values())
            chosen = [one for one in layers if self.place == "all" or known[id(one)][0] * known[id(one)][1] == largest]
            saved = sum(self._share_saved(one, known[id(one)], rows) for one in chosen)
            for row in rows:
                row.ran = 1 - saved
            forwards: dict[torch.nn.Module, Callable[..., Any]] = {one: self._merge(one, grids) for one in chosen}
            with replaced_forwards(forwards):
                yield

    def _share_saved(self, layer: Any, grid: tuple[int, int], rows: Sequence[CachedRow]) -> float:
        """The share of the network's multiply-adds that a layer saves: of its projections, and of its square."""
        tokens = grid[0] * grid[1]
        corners = -(-grid[0] // 2) * -(-grid[1] // 2)
        left = 1 - min(int(self.ratio * tokens), tokens - corners) / tokens
        work = work_of(rows)
        projections = work.share([layer.to_q, layer.to_k, layer.to_v, layer.to_out])
        return projections * (1 - left) + (work.share([layer]) - projections) * (1 - left**2)

    def _merge(self, layer: Any, grids: dict[int, tuple[int, int]]) -> Callable[..., Any]:
        run = layer.forward

        def forward(hidden_states: torch.Tensor, *arguments: object, **keywords: object) -> Any:
            merging = match_tokens(hidden_states, grids[id(layer)], self.ratio)
            return merging.spread(run(merging.merge(hidden_states), *arguments, **keywords))

        return forward

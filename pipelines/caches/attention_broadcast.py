"""Pyramid attention broadcast (PAB): attention keeps its output for some evaluations, cross-attention for more."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.caches.reuse import Groups, ReusingCache, named_layers
from pipelines.core.caching import Place
from pipelines.core.registry import setting

__all__ = ["AttentionBroadcast", "AttentionBroadcastSettings"]


@dataclasses.dataclass(frozen=True)
class AttentionBroadcastSettings:
    self_interval: int = setting(
        2, "Self-attention is run at every n-th evaluation; 1 runs it always.", low=1, high=20, step=1
    )
    cross_interval: int = setting(
        4, "Cross-attention to the prompt is run at every n-th evaluation; 1 runs it always.", low=1, high=20, step=1
    )
    low: int = setting(100, "Network time below which attention is always run.", low=0, high=1000, step=10)
    high: int = setting(850, "Network time above which attention is always run.", low=0, high=1000, step=10)


@dataclasses.dataclass(frozen=True)
class AttentionBroadcast(ReusingCache):
    """Takes the output of attention again in the middle of a run, where it hardly changes.

    Source: Zhao et al., Real-time video generation with pyramid attention broadcast, arXiv:2408.12588, section 3.2.
    Differs: single pictures have no attention over time; a joint transformer's attention counts as self-attention. The
        times are those between which the authors' code broadcasts.
    """

    self_interval: int = 2
    cross_interval: int = 4
    low: int = 100
    high: int = 850

    @classmethod
    def build(cls, settings: AttentionBroadcastSettings = AttentionBroadcastSettings()) -> AttentionBroadcast:
        return cls(settings.self_interval, settings.cross_interval, settings.low, settings.high)

    def groups(self, module: torch.nn.Module) -> Groups:
        is_unet = hasattr(module, "up_blocks")
        within = named_layers(module, *(("attn1",) if is_unet else ("attn", "attn2")))
        return {"self": within, "cross": named_layers(module, "attn2") if is_unet else []}

    def reused(self, place: Place) -> tuple[str, ...]:
        if not self.low < place.level.timestep < self.high:
            return ()
        intervals = {"self": self.self_interval, "cross": self.cross_interval}
        return tuple(name for name, interval in intervals.items() if place.evaluation % interval)

"""First-block cache: a transformer's first block says whether the others have anything new to say."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.caches.decisions import DecidingCache
from pipelines.core.registry import setting

__all__ = ["FirstBlockCache", "FirstBlockSettings"]


@dataclasses.dataclass(frozen=True)
class FirstBlockSettings:
    threshold: float = setting(
        0.1,
        "Relative change of what the first block adds, below which the others are left out; 0 runs them always.",
        low=0,
        high=1,
        step=0.01,
    )
    warmup: int = setting(3, "Evaluations that run all blocks at first.", low=1, high=50, step=1)
    most: int = setting(
        4, "Evaluations in a row that may leave them out.", low=1, high=50, step=1, label="Most in a row"
    )


@dataclasses.dataclass(frozen=True)
class FirstBlockCache(DecidingCache):
    """Leaves out all blocks but the first while that one adds what it added when all were last run.

    Source: Cheng, ParaAttention (2024), first block cache; the idea is TeaCache's, Liu et al., arXiv:2411.19108.
    Differs: each sample decides for itself, so that a picture does not depend on its batch; the authors' mean is over
        the batch. They leave out any number in a row.
    """

    threshold: float = 0.1
    warmup: int = 3
    most: int = 4
    depth: int = 1

    is_compared_with_last_run = True

    @classmethod
    def build(cls, settings: FirstBlockSettings = FirstBlockSettings()) -> FirstBlockCache:
        return cls(settings.threshold, settings.warmup, settings.most)

    def watch(self, entered: torch.Tensor, hidden: torch.Tensor, block: object, temb: torch.Tensor) -> torch.Tensor:
        return hidden - entered

    def count(self, change: float, gone: float) -> float:
        return change

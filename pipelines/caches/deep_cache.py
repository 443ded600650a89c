"""DeepCache: a UNet's deep layers are run at every n-th evaluation."""

from __future__ import annotations

import dataclasses

from pipelines.caches.intervals import CutCache
from pipelines.core.caching import Place
from pipelines.core.registry import setting

__all__ = ["DeepCache", "DeepCacheSettings"]


@dataclasses.dataclass(frozen=True)
class DeepCacheSettings:
    interval: int = setting(
        2, "The whole network is run at every n-th evaluation; 1 runs it always.", low=1, high=20, step=1
    )
    depth: int = setting(
        0,
        "Skip connections that are run afresh in between, beside the first: more is slower and closer.",
        low=0,
        high=12,
        step=1,
    )


@dataclasses.dataclass(frozen=True)
class DeepCache(CutCache):
    """Runs the whole UNet at every n-th evaluation, and in between its shallow layers on the deep ones' last output.

    Source: Ma et al., DeepCache: Accelerating diffusion models for free, arXiv:2312.00858, section 3.2 and its uniform
        choice of steps. The authors report 2.3 times the speed of Stable Diffusion 1.5; on the shipped UNet every
        picture of 25 steps stays above 30 dB at interval 2 only (`python -m pipelines.benchmark speed`).
    """

    interval: int = 2
    depth: int = 0

    @classmethod
    def build(cls, settings: DeepCacheSettings = DeepCacheSettings()) -> DeepCache:
        return cls(settings.interval, settings.depth)

    def is_whole(self, place: Place) -> bool:
        return place.evaluation % self.interval == 0

"""Feature inheritance (A-SDM): chosen parts of a UNet keep their output for some evaluations."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from pipelines.caches.reuse import Groups, ReusingCache, named_layers
from pipelines.core.caching import Place
from pipelines.core.errors import MethodFitError
from pipelines.core.registry import setting

__all__ = ["FeatureInheritance", "FeatureInheritanceSettings"]

_PARTS = ("deep blocks", "residual layers", "attention layers")


@dataclasses.dataclass(frozen=True)
class FeatureInheritanceSettings:
    parts: str = setting("deep blocks", "What keeps its output.", choices=_PARTS)
    interval: int = setting(2, "It is run at every n-th evaluation; 1 runs it always.", low=1, high=20, step=1)


@dataclasses.dataclass(frozen=True)
class FeatureInheritance(ReusingCache):
    """Runs the deep blocks, the residual layers or the attention layers of a UNet at every n-th evaluation.

    The deep blocks are the lowest of the way down, the middle, and the lowest of the way up.

    Source: Zhang et al., A-SDM: Accelerating Stable Diffusion through model assembly and feature inheritance
        strategies, arXiv:2406.00210: features are inherited by block, by layer or by unit.
    Differs: every n-th evaluation is run; the authors choose steps by how much features change.
    """

    parts: str = "deep blocks"
    interval: int = 2

    @classmethod
    def build(cls, settings: FeatureInheritanceSettings = FeatureInheritanceSettings()) -> FeatureInheritance:
        return cls(settings.parts, settings.interval)

    def groups(self, module: Any) -> Groups:
        if not hasattr(module, "down_blocks"):
            raise MethodFitError("This network has no UNet's blocks, which this cache leaves out.")
        if self.parts != "deep blocks":
            lists = named_layers(module, {"residual layers": "resnets", "attention layers": "attentions"}[self.parts])
            return {"parts": [layer for layers in lists for layer in layers.children()]}
        middle = [module.mid_block] if module.mid_block is not None else []
        deep: list[torch.nn.Module] = [module.down_blocks[-1], *middle, module.up_blocks[0]]
        return {"parts": deep}

    def reused(self, place: Place) -> tuple[str, ...]:
        return ("parts",) if place.evaluation % self.interval else ()

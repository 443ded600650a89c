"""TeaCache: a transformer is run again once its modulated input has changed enough."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from pipelines.caches.decisions import DecidingCache
from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting

__all__ = ["TeaCache", "TeaCacheSettings", "parse_polynomial"]


@dataclasses.dataclass(frozen=True)
class TeaCacheSettings:
    threshold: float = setting(
        0.1,
        "Sum of the input's relative changes from which on the blocks are run again; 0 runs them always.",
        low=0,
        high=3,
        step=0.01,
    )
    warmup: int = setting(3, "Evaluations that run all blocks at first.", low=1, high=50, step=1)
    most: int = setting(
        4, "Evaluations in a row that may leave them out.", low=1, high=50, step=1, label="Most in a row"
    )
    polynomial: str = setting(
        "", "Coefficients, highest power first, of the polynomial that a change passes through; empty for none."
    )

    def __post_init__(self) -> None:
        parse_polynomial(self.polynomial)


def parse_polynomial(text: str) -> tuple[float, ...]:
    """Read coefficients, separated by commas; () of an empty text.

    Raises:
        SettingsError: they are not numbers.
    """
    try:
        values = tuple(float(one) for one in text.split(",")) if text.strip() else ()
    except ValueError:
        values = (math.nan,)
    if not all(math.isfinite(one) for one in values):
        raise SettingsError(f"TeaCache: polynomial is {text[:40]!r}. Choose one of numbers with commas, e.g. '2, 0.1'.")
    return values


@dataclasses.dataclass(frozen=True)
class TeaCache(DecidingCache):
    """Adds up how much the first block's modulated input changes, and runs the blocks when the sum passes a threshold.

    Source: Liu et al., Timestep embedding tells: It's time to cache for video diffusion model, arXiv:2411.19108,
        equations 6 to 8.
    Differs: the changes are added as they are, or through a polynomial that is written; the authors fit one to each
        model. Each sample decides for itself, so that a picture does not depend on its batch.
    """

    threshold: float = 0.1
    warmup: int = 3
    most: int = 4
    polynomial: tuple[float, ...] = ()
    depth: int = 0

    @classmethod
    def build(cls, settings: TeaCacheSettings = TeaCacheSettings()) -> TeaCache:
        return cls(settings.threshold, settings.warmup, settings.most, parse_polynomial(settings.polynomial))

    def watch(self, entered: torch.Tensor, hidden: torch.Tensor, block: Any, temb: torch.Tensor) -> torch.Tensor:
        modulated: torch.Tensor = block.norm1(hidden, emb=temb)[0]
        return modulated

    def count(self, change: float, gone: float) -> float:
        if not self.polynomial:
            return gone + change
        value = 0.0
        for factor in self.polynomial:
            value = value * change + factor
        return gone + value

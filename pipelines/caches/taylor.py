"""TaylorSeer: what a network's deep layers say is extrapolated from what they said before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.caches.intervals import CutCache
from pipelines.core.caching import Place
from pipelines.core.registry import setting

__all__ = ["TaylorSeer", "TaylorSeerSettings", "extrapolation_weights"]


@dataclasses.dataclass(frozen=True)
class TaylorSeerSettings:
    interval: int = setting(
        2, "The whole network is run at every n-th evaluation; 1 runs it always.", low=1, high=20, step=1
    )
    order: int = setting(1, "Of the extrapolation; 0 takes the last feature as it is.", low=0, high=3, step=1)
    warmup: int = setting(3, "Evaluations that run the whole network at first.", low=1, high=50, step=1)
    depth: int = setting(
        0,
        "A UNet's skip connections beside the first, or a transformer's first blocks, that are run afresh in between.",
        low=0,
        high=12,
        step=1,
    )


def extrapolation_weights(times: Sequence[float], time: float) -> tuple[float, ...]:
    """Weigh values at some times so that their sum is the polynomial through them, at another time.

    Args:
        times: distinct, n of them.
        time: where the polynomial of degree n - 1 is asked for.

    Source: Lagrange's form; of two times it is the first-order Taylor expansion with the difference quotient.
    """
    weights = []
    for place, own in enumerate(times):
        weight = 1.0
        for other in (*times[:place], *times[place + 1 :]):
            weight *= (time - other) / (own - other)
        weights.append(weight)
    return tuple(weights)


@dataclasses.dataclass(frozen=True)
class TaylorSeer(CutCache):
    """Runs the whole network at every n-th evaluation, and in between continues its feature as a polynomial in time.

    Source: Liu et al., From reusing to forecasting: Accelerating diffusion models with TaylorSeers, arXiv:2503.06923,
        equations 5 and 6.
    Differs: one feature a network is forecast, what its blocks add in all (their "last layer" variant), and on UNets
        DeepCache's. Differences divide by the network's time and not by the number of steps, and order 2 is the
        parabola through three features, which their expansion is not.
    """

    interval: int = 2
    order: int = 1
    warmup: int = 3
    depth: int = 0

    @classmethod
    def build(cls, settings: TaylorSeerSettings = TaylorSeerSettings()) -> TaylorSeer:
        return cls(settings.interval, settings.order, settings.warmup, settings.depth)

    @property
    def memories(self) -> int:  # type: ignore[override]
        return self.order + 1

    def is_whole(self, place: Place) -> bool:
        after = place.evaluation - self.warmup
        return after < 0 or (after + 1) % self.interval == 0

    def weights(self, times: Sequence[float], time: float) -> tuple[float, ...]:
        return extrapolation_weights(times, time)

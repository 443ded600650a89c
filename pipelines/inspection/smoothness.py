"""How evenly pictures change along a path between two noises."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from pipelines.core.noise import slerp
from pipelines.core.registry import setting
from pipelines.inspection.base import Finding, InspectContext, difference

__all__ = ["Smoothness", "SmoothnessSettings", "istd"]


@dataclasses.dataclass(frozen=True)
class SmoothnessSettings:
    seed: int = setting(
        1, "Of the noise at the path's end; the request's own seed gives a path that stands still.", low=0
    )
    points: int = setting(8, "Pictures along the path.", low=3, high=64, step=1)


def istd(changes: Sequence[float]) -> float:
    """Compute the standard deviation of the changes from picture to picture: 0 where all are the same."""
    return float(np.std(np.asarray(changes, np.float64)))


class Smoothness:
    """Draws pictures along the sphere between two noises and measures the spread of the changes from one to the next.

    Source: Guo et al., Smooth Diffusion, arXiv:2312.04410, the interpolation standard deviation (ISTD).
    Differs: a change is the root mean square of the colors' difference, and one path is measured.
    """

    needs_picture = False

    def __init__(self, settings: SmoothnessSettings = SmoothnessSettings()):
        self.seed, self.points = settings.seed, settings.points

    def count_pieces(self) -> int:
        return self.points

    def inspect(self, context: InspectContext) -> Finding:
        ends = context.unit_noise(context.resolved.request.seed), context.unit_noise(self.seed)
        shares = [point / (self.points - 1) for point in range(self.points)]
        pictures = [context.draw_picture(slerp(*ends, share)) for share in shares]
        changes = [difference(one, other) for one, other in itertools.pairwise(pictures)]
        return Finding(
            {"ISTD": istd(changes), "mean change": float(np.mean(changes)), "largest change": max(changes)},
            curve=list(zip(shares[1:], changes, strict=True)),
            axes=("Way from seed to seed", "Change from the picture before"),
            pictures=np.stack(pictures),
        )

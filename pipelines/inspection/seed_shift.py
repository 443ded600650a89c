"""The seed-shift probe: the initial noise slides sideways, and the picture changes."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipelines.core.registry import setting
from pipelines.inspection.base import Finding, InspectContext, difference

__all__ = ["SeedShift", "SeedShiftSettings"]


@dataclasses.dataclass(frozen=True)
class SeedShiftSettings:
    step: int = setting(
        1, "Places of the latents by which the noise slides from point to point.", low=0, high=64, step=1
    )
    points: int = setting(5, "Points of the curve, the unmoved noise among them.", low=2, high=33, step=1)


class SeedShift:
    """Rolls the initial noise along the rows and measures how far the picture is from the one of the unmoved noise.

    A second figure moves the first picture along with the noise before it is compared: where it is the smaller one, the
    layout follows the noise.

    """

    needs_picture = False

    def __init__(self, settings: SeedShiftSettings = SeedShiftSettings()):
        self.step, self.points = settings.step, settings.points

    def count_pieces(self) -> int:
        return self.points

    def inspect(self, context: InspectContext) -> Finding:
        noise = context.unit_noise(context.resolved.request.seed)
        pictures = [context.draw_picture(noise.roll(self.step * point, -1)) for point in range(self.points)]
        pixels = pictures[0].shape[1] // noise.shape[-1]
        changes = [difference(pictures[0], one) for one in pictures]
        followed = [
            difference(np.roll(pictures[0], self.step * point * pixels, 1), one) for point, one in enumerate(pictures)
        ]
        return Finding(
            {"change at the end": changes[-1], "change beside the moved picture": followed[-1]},
            curve=[(float(self.step * point), change) for point, change in enumerate(changes)],
            axes=("Shift of the noise, places of the latents", "Change of the picture"),
            pictures=np.stack(pictures),
        )

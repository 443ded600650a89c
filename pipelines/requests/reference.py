"""The long run that a comparison's cells are measured against."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import numpy as np

from pipelines.core.types import Choice, Request
from pipelines.metrics.pictures import WINDOW, psnr, ssim

__all__ = ["ReferenceCache", "likeness", "reference_of"]


def reference_of(request: Request, flow: bool, steps: int) -> Request:
    """Return the long run that a cell is measured against; equal for cells that differ only in how they are solved.

    Second order and deterministic: DPM-Solver++(2M) on Karras levels, for flow models Flow Heun on the model's
    own shift. On the shipped model, 100 such steps lie 58 dB from 500 steps of Heun, as 100 of Heun's own do
    on these levels, at half the evaluations.
    """
    sampler, schedule = ("flow_heun", "shift") if flow else ("dpmpp_2m", "karras")
    return request.replace(
        sampler=Choice(sampler),
        schedule=Choice(schedule),
        start=Choice("noise"),
        cache=Choice("none"),
        num_inference_steps=steps,
    )


def likeness(picture: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
    """Compute {"psnr": decibels, "ssim": None for a picture smaller than its window}, of (H, W, 3) uint8 pictures."""
    small = min(picture.shape[:2]) < WINDOW
    return {"psnr": psnr(picture, reference), "ssim": None if small else ssim(picture, reference)}


class ReferenceCache:
    """Keeps pictures of long runs by who asked and the request; the least recently used go first.

    Args:
        max_bytes: of all pictures together.
    """

    def __init__(self, max_bytes: int = 64 * 2**20):
        self._max_bytes = max_bytes
        self._pictures: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable) -> np.ndarray | None:
        """Return the picture (H, W, 3), uint8, if it is still here."""
        if key in self._pictures:
            self._pictures.move_to_end(key)
        return self._pictures.get(key)

    def put(self, key: Hashable, picture: np.ndarray) -> None:
        """Keep a picture, and let older ones go."""
        self._pictures[key] = picture
        self._pictures.move_to_end(key)
        while sum(one.nbytes for one in self._pictures.values()) > self._max_bytes:
            self._pictures.popitem(last=False)

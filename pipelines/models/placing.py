"""Where models stay on one device, by what it holds, what a job asks and what earlier jobs took."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

from pipelines.core.leases import PartKey
from pipelines.models.activations import Work, estimate_activations, measured_activations
from pipelines.models.cache import ModelCache
from pipelines.models.placement import Placement, place_parts
from pipelines.models.plan import QUANTIZED_PARTS, Plan

__all__ = ["DOES_NOT_FIT", "Placing"]

DOES_NOT_FIT = "It does not fit"
"""How the sentence begins that is said of a model which no placement fits."""


class Placing:
    """Chooses placements, and remembers what evaluations of each network took beside its weights.

    Args:
        cache: of the device's memory.
        host: of the computer's memory, for parts that wait there; None where none can.
        device: where models run.
    """

    def __init__(self, cache: ModelCache, host: ModelCache | None, device: str):
        self._cache, self._host, self._device = cache, host, device
        self._measured: dict[PartKey, float] = {}
        self._last: dict[str, tuple[Plan, Placement]] = {}

    def place(self, plan: Plan, work: Work | None) -> tuple[Placement, int]:
        """Choose where a model's parts stay for a job.

        What is estimated moves parts out of the way, but refuses no model: a batch that does not fit is halved.

        Args:
            plan: of the model.
            work: what its network is to be given; None where nobody knows.

        Returns:
            The placement, and the bytes beyond the cache's headroom that are to be kept free for an evaluation.
        """
        placement, further = self._choose(plan, work)
        self._last[plan.entry.key] = plan, placement
        return placement, further

    def find(self, plan: Plan) -> Placement:
        """Return the last placement of a plan; that without any work where it was not placed yet."""
        of, placement = self._last.get(plan.entry.key, (None, None))
        return placement if placement is not None and of is plan else self._choose(plan, None)[0]

    def describe(self, plan: Plan, work: Work | None) -> tuple[str, bool]:
        """Say in one sentence where a model's parts stay, or what to do where they fit nowhere; and whether they do."""
        placement, _ = self._choose(plan, work)
        if placement.fits:
            return placement.sentence, True
        parts, most = sum(placement.sizes.values()), self._cache.limit
        words = f"{DOES_NOT_FIT}: its parts take {parts / 1e9:.1f} GB, and models may take {most / 1e9:.1f} GB"
        if self._host is not None:
            words += f" of the device and, waiting, {self._host.limit / 1e9:.1f} GB of the computer"
        remedy = "Choose a smaller model, or start with a larger --memory-budget."
        if plan.entry.quantized is None:
            remedy = "Choose a smaller model or a quantized copy of it, or start with a larger --memory-budget."
        elif self._host is not None:
            remedy = "Its layers cannot come one by one, as those of the model that it is a copy of can: try that one."
        return f"{words}. {remedy}", False

    def measured(self, plan: Plan, parts: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Measure what evaluations take beside the weights while the context lasts; the next plans count with it.

        Args:
            plan: of the model.
            parts: that are loaded, by name.
        """
        name = next((name for name in QUANTIZED_PARTS if parts.get(name) is not None), None)
        if name is None:
            return contextlib.nullcontext()
        tell = functools.partial(self._measured.__setitem__, plan.keys[name])
        return measured_activations(parts[name], self._device, tell)

    def _choose(self, plan: Plan, work: Work | None) -> tuple[Placement, int]:
        limit, host_limit = self._cache.limit, None if self._host is None else self._host.limit
        network = next((plan.keys[name] for name in QUANTIZED_PARTS if name in plan.keys), None)
        if work is not None and network is not None and host_limit is not None:
            measured = self._measured.get(network)
            needed = estimate_activations(plan.entry.family, network.dtype, work, measured)
            further = max(0, needed - self._cache.headroom_bytes)
            placement = place_parts(plan, limit - further, host_limit)
            if placement.fits:
                return placement, further
        return place_parts(plan, limit, host_limit), 0

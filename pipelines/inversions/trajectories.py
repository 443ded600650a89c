"""Inverted trajectories kept for the next edit of the same picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from pipelines.core.types import Trajectory

__all__ = ["TrajectoryCache"]


class TrajectoryCache:
    """Keeps trajectories of inversions; the least recently used go first.

    They are kept in the process that inverted: where each job has one of its own, as on a ZeroGPU Space, the next edit
    of the same picture inverts it again.

    Args:
        max_bytes: of all latents together.
    """

    def __init__(self, max_bytes: int = 256 * 2**20):
        self._max_bytes = max_bytes
        self._trajectories: OrderedDict[Hashable, Trajectory] = OrderedDict()

    def get(self, key: Hashable) -> Trajectory | None:
        """Return the trajectory, if it is still here."""
        if key in self._trajectories:
            self._trajectories.move_to_end(key)
        return self._trajectories.get(key)

    def put(self, key: Hashable, trajectory: Trajectory) -> None:
        """Keep a trajectory, and let older ones go; one that is larger than the whole room is not kept."""
        self._trajectories[key] = trajectory
        self._trajectories.move_to_end(key)
        while sum(_count_bytes(one) for one in self._trajectories.values()) > self._max_bytes:
            self._trajectories.popitem(last=False)


def _count_bytes(trajectory: Trajectory) -> int:
    steps = (tensor.nbytes for step in trajectory.steps for tensor in (step.latents, step.denoised))
    return trajectory.initial.nbytes + sum(steps)

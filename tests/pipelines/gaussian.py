"""Gaussian data for tests: what `pipelines.benchmarks.orders` measures on, and short ways to use it."""

from __future__ import annotations

from pipelines.benchmarks.orders import (
    MEAN,
    VARIANCE,
    CosineSchedule,
    GaussianNetwork,
    exact,
    falls,
    grid,
    one_step,
    orders,
    primed_orders,
    run_of,
)
from pipelines.core.loop import denoise
from pipelines.core.schedule import FlowSchedule

__all__ = [
    "MEAN",
    "SCHEDULES_OF",
    "VARIANCE",
    "CosineSchedule",
    "GaussianNetwork",
    "exact",
    "falls",
    "grid",
    "last_of",
    "one_step",
    "orders",
    "primed_orders",
    "run_of",
]


def last_of(run):
    """The last step of a run."""
    *_, last = denoise(run)
    return last


SCHEDULES_OF = {"diffusion": CosineSchedule(), "flow": FlowSchedule()}

"""The task behind the Live tab: pictures in, pictures out, until it is stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext
    from studio.tasks.runs.live import LiveSession

__all__ = ["Live"]


class Live:
    """Draw along: every frame of a canvas or camera becomes a picture. It lasts as long as a page talks to it."""

    key = "live"
    command = None
    endpoint = None

    def parse(self, values: Mapping[str, object], context: TaskContext) -> LiveSession:
        from studio.tasks.runs import live  # late: see `Task`

        return live.parse(values, context)

    def work(self, request: LiveSession) -> tuple[float, float]:
        return 0, math.inf  # no Space with ZeroGPU has it

    def run(self, request: LiveSession, job: Job, context: TaskContext) -> None:
        from studio.tasks.runs import live  # late: see `Task`

        live.run(request, job, context)

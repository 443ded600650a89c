"""The task behind "Keep it": a quantized model is made again if it is gone, and written into the models folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext
    from studio.tasks.runs.keep import KeepRequest

__all__ = ["Keep"]


class Keep:
    """Keep a quantized model, in the queue like all that needs the device: its copy may have to be made anew."""

    key = "keep"
    command = None
    endpoint = None

    def parse(self, values: Mapping[str, object], context: TaskContext) -> KeepRequest:
        from studio.tasks.runs import keep  # late: see `Task`

        return keep.parse(values, context)

    def work(self, request: KeepRequest) -> tuple[float, float]:
        return 0, math.inf  # no Space with ZeroGPU keeps one

    def run(self, request: KeepRequest, job: Job, context: TaskContext) -> None:
        from studio.tasks.runs import keep  # late: see `Task`

        keep.run(request, job, context)

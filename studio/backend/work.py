"""How much work a request is, and the engine of a Space, which asks for a GPU for as long as that takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipelines.workflows.upscale import UpscaleRequest
from studio.jobs.job import Job
from studio.jobs.local_engine import LocalEngine
from studio.tasks.base import Task
from studio.tasks.context import TaskContext
from studio.tasks.forked import build_forked_run, estimate_gpu_seconds, list_preloaded_models

__all__ = ["build_zero_engine", "estimate_work"]


def build_zero_engine(
    context: TaskContext, tasks: Mapping[str, Task], gpu: Callable[..., object], leave_queue: Callable[[Job], None]
) -> LocalEngine:
    """Build the engine that runs each job in a process with a lent GPU.

    Args:
        context: whose models the processes have.
        tasks: the task table.
        gpu: the decorator of Spaces that lends a GPU.
        leave_queue: called for each job that begins.
    """
    from studio.jobs.zero_engine import ZeroEngine

    run, release = build_forked_run(context, list_preloaded_models(), tasks)

    def estimate_seconds(task: str, request: object, identity: str, owner: str = "") -> int:
        return estimate_gpu_seconds(tasks[task], request)

    return ZeroEngine(run, context.limits, gpu, estimate_seconds, release, leave_queue)


def estimate_work(
    key: str, task: Task, request: object, get_default_size: Callable[[str], tuple[int, int] | None]
) -> tuple[tuple[str, str], float]:
    """Estimate a request's kind of work, and its units: steps of one picture of 2^20 pixels.

    Args:
        key: of the task.
        task: that runs it.
        request: of the task.
        get_default_size: a model to its own width and height in pixels, as far as they are known.
    """
    base = getattr(request, "base", request)
    model = str(getattr(base, "model", ""))
    if isinstance(request, UpscaleRequest):  # whose second pass runs at the size of the enlarged picture
        kind, (width, height) = (key, f"{model} {request.upscaler} {request.strength > 0}"), request.size
    else:
        kind, width, height = (key, model), *(getattr(base, name, 0) or 512 for name in ("width", "height"))
        if not getattr(base, "width", 0) and (default_size := get_default_size(model)):
            width, height = default_size
    return kind, task.work(request)[0] * width * height / 2**20

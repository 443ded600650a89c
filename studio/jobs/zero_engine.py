"""The engine for ZeroGPU Spaces: each job runs in a forked process that has a GPU for as long as the job lasts.

What the parent process does after the fork, the worker does not see: no event, no lock, no cache. So a short list of
models is loaded when the studio starts, the worker tells all that happens by yielding it, and a stop reaches it after
its next yield. What is yielded is pickled on its way: plain values and NumPy arrays, never a tensor. What a worker
keeps for later jobs ends with it: the trajectory of an inversion, a quantized network, the reference of a comparison.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Generator, Mapping
from typing import Any

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import BusyError, StepwiseError
from pipelines.requests.limits import Limits
from studio.jobs.job import Job
from studio.jobs.local_engine import LocalEngine

__all__ = ["ZeroEngine", "build_worker"]

_LOG = logging.getLogger("stepwise.engine")

_SENT_METHODS = ("set_status", "set_cells", "add_step", "update_cell", "set_outcome")
"""What a task says to its job: the only names that the parent takes from a worker."""

_FAILURES: Mapping[str, Callable[[str], BaseException]] = {
    "cancelled": lambda text: Cancelled(),
    "said": StepwiseError,
    "memory": MemoryError,
    "broke": RuntimeError,
}

Event = tuple[str, tuple[Any, ...], dict[str, Any]]
Run = Callable[[Job], None]


class _ToldJob(Job):
    """The worker's side of a job: what a task says to it goes into a queue."""

    def __init__(self, task: str, request: object, owner: str):
        super().__init__(task, request, owner)
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()


def _forward(name: str) -> Callable[..., None]:
    def tell(self: _ToldJob, *args: object, **changes: object) -> None:
        getattr(Job, name)(self, *args, **changes)  # a task reads its job, too
        self.events.put((name, args, changes))

    return tell


for _name in _SENT_METHODS:
    setattr(_ToldJob, _name, _forward(_name))


def build_worker(run: Run) -> Callable[[str, Any, str], Generator[Event, None, None]]:
    """Build the function that is sent to the GPU: a plain generator of all that happens to a job.

    Args:
        run: does a job's work, as the local engine takes it. It must not use a lock that the parent may hold.
    """

    def run_events(task: str, request: object, identity: str, owner: str = "") -> Generator[Event, None, None]:
        job = _ToldJob(task, request, owner)
        job.id = identity  # results are stored under it
        working = threading.Thread(target=_run_job, args=(run, job), name="stepwise-zero", daemon=True)
        working.start()
        try:
            while (event := job.events.get()) is not None:
                yield event
        finally:
            job.cancel()
            working.join()

    return run_events


def _run_job(run: Run, job: _ToldJob) -> None:
    """Run a job to its end; how it failed is its last event."""
    try:
        run(job)
    except Cancelled:
        job.events.put(("cancelled", (), {}))
    except StepwiseError as error:
        job.events.put(("said", (str(error),), {}))
    except (MemoryError, torch.OutOfMemoryError):
        job.events.put(("memory", ("",), {}))
    except Exception:
        _LOG.exception("job %s broke", job.id)
        job.events.put(("broke", (f"in the worker, job {job.id}",), {}))
    finally:
        job.events.put(None)


class ZeroEngine(LocalEngine):
    """Runs jobs first-in first-out where `spaces.GPU` sends them.

    Args:
        run: does a job's work in the worker.
        limits: as for the local engine.
        gpu: `spaces.GPU`, or what stands in for it: takes `duration` and gives a decorator for generator functions.
        seconds: how long a job may hold the GPU, from its task, its request, its id and its owner.
        release: lets go of what `run` holds, when the engine is closed.
        on_leave: as for the local engine.
    """

    forks = True

    def __init__(
        self,
        run: Run,
        limits: Limits,
        gpu: Callable[..., Any],
        seconds: Callable[[str, Any, str], int],
        release: Callable[[], None] = lambda: None,
        on_leave: Callable[[Job], None] = lambda job: None,
    ):
        self._release = release
        self._events = gpu(duration=seconds)(build_worker(run))
        self._callers: weakref.WeakKeyDictionary[Job, contextvars.Context] = weakref.WeakKeyDictionary()
        super().__init__(self._follow, limits, on_leave)

    def submit(self, job: Job) -> Job:
        # The GPU is charged to whoever asks: `spaces` finds the person's request in the context of the call.
        self._callers[job] = contextvars.copy_context()
        return super().submit(job)

    def close(self, timeout: float = 10.0, explain: Callable[[Job], str] = lambda job: "") -> bool:
        has_ended = super().close(timeout, explain)
        self._release()
        return has_ended

    def run_if_idle(self, action: Callable[[], object], device: str | None = None) -> None:
        """Do nothing: outside of a job there is no device here."""
        return None

    def _follow(self, job: Job) -> None:
        self._callers.pop(job).run(self._replay, job)

    def _replay(self, job: Job) -> None:
        """Repeat on the parent's job what happened to the worker's."""
        with contextlib.closing(self._request_gpu(job)) as events:
            for name, args, changes in events:
                if job.cancelled():
                    raise Cancelled  # closing the generator stops the worker after its next yield
                if name in _FAILURES:
                    raise _FAILURES[name](*args[:1] or ("",))
                if name not in _SENT_METHODS:
                    raise RuntimeError(f"a worker said {name!r}")
                getattr(job, name)(*args, **changes)

    def _request_gpu(self, job: Job) -> Generator[Event, None, None]:
        """The worker's events; what `spaces` refuses (no quota, no GPU, time is up) as a sentence."""
        from gradio.exceptions import Error

        events = self._events(job.task, job.request, job.id, job.owner)
        try:
            yield from events
        except Error as error:
            raise BusyError(f"The Space's GPU was not given, or was taken back: {error.message}") from error
        finally:
            events.close()

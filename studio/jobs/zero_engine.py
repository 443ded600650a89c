"""The engine for ZeroGPU Spaces: each job runs in a forked process that has a GPU for as long as the job lasts.

What the parent process does after the fork, the worker does not see: no event, no lock, no cache. So a short list of
models is loaded when the studio starts, the worker tells all that happens by yielding it, and a stop reaches it after
its next yield. What is yielded is pickled on its way: plain values and NumPy arrays, never a tensor. What a worker keeps
for later jobs ends with it: the trajectory of an inversion, a quantized network, the reference of a comparison.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import queue
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import torch

from pipelines.core.denoiser import Cancelled
from pipelines.core.errors import BusyError, StepwiseError
from pipelines.requests.limits import Limits
from studio.jobs.job import Job
from studio.jobs.local_engine import LocalEngine

__all__ = ["LEAST_SECONDS", "MOST_SECONDS", "ZeroEngine", "seconds_for", "worker"]

_LOG = logging.getLogger("stepwise.engine")

LEAST_SECONDS, MOST_SECONDS = 15, 120
"""GPU time that a job asks for. It is taken from the person's quota, and the queue favors those who ask for little."""

_MEGAPIXEL_STEP = 0.5
_ENCODING, _QUANTISING, _PEAK = 0.5, 3, 10
"""Seconds of a further prompt, of one quantized copy, and of the process that measures one peak of memory."""

_TOLD = ("set_status", "set_cells", "add_step", "update_cell", "set_outcome")
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

    def __init__(self, task: str, request: Any):
        super().__init__(task, request)
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()


def _telling(name: str) -> Callable[..., None]:
    def tell(self: _ToldJob, *args: Any, **changes: Any) -> None:
        getattr(Job, name)(self, *args, **changes)  # a task reads its job, too
        self.events.put((name, args, changes))

    return tell


for _name in _TOLD:
    setattr(_ToldJob, _name, _telling(_name))


def _compared(request: Any) -> tuple[float, float]:
    steps = sum(cell.request.num_inference_steps for cell in request.cells)
    return steps + request.reference * request.reference_steps, 0


def _animated(request: Any) -> tuple[float, float]:
    return request.base.num_inference_steps * request.frames, _ENCODING * len(request.keys)


def _quantized(request: Any) -> tuple[float, float]:
    runs = len(request.variants) + 1
    steps = request.base.num_inference_steps * (3 if request.measure else 1)  # measuring costs two more runs of each
    return steps * runs, _QUANTISING * len(request.variants) + _PEAK * runs * request.peak


def _converged(request: Any) -> tuple[float, float]:
    return request.reference_steps + len(request.samplers) * sum(request.evaluations), 0


_WORK: Mapping[str, Callable[[Any], tuple[float, float]]] = {
    "text_to_image": lambda request: (request.num_inference_steps * request.batch_size, 0),
    "compare": _compared,
    "edit": lambda request: (3 * request.base.num_inference_steps, 0),  # there, back, and the reconstruction
    "animate": _animated,
    "quantize": _quantized,
    "convergence": _converged,
    "learn": lambda request: (math.inf, 0),  # a fit goes on for as long as it may
}
"""Key of the task to a request's work: steps of one picture, and seconds beside them."""


def seconds_for(task: str, request: Any, identity: str = "") -> int:
    """How long a job may hold the GPU: a generous guess from its steps, pictures, frames and pixels.

    Args:
        task: key of the task table.
        request: the checked request of that task.
        identity: of the job, which makes no difference.
    """
    base = getattr(request, "base", request)
    steps, more = _WORK[task](request)
    megapixels = (base.width or 1024) * (base.height or 1024) / 2**20
    guess = LEAST_SECONDS + more + steps * max(megapixels, 0.05) * _MEGAPIXEL_STEP
    return int(min(max(guess, LEAST_SECONDS), MOST_SECONDS))


def worker(run: Run) -> Callable[[str, Any, str], Generator[Event, None, None]]:
    """The function that is sent to the GPU: a plain generator of all that happens to a job.

    Args:
        run: does a job's work, as the local engine takes it. It must not use a lock that the parent may hold.
    """

    def events(task: str, request: Any, identity: str) -> Generator[Event, None, None]:
        job = _ToldJob(task, request)
        job.id = identity  # results are stored under it
        working = threading.Thread(target=_perform, args=(run, job), name="stepwise-zero", daemon=True)
        working.start()
        try:
            while (event := job.events.get()) is not None:
                yield event
        finally:
            job.cancel()
            working.join()

    return events


def _perform(run: Run, job: _ToldJob) -> None:
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
    """A first-in first-out queue whose jobs run where `spaces.GPU` sends them.

    Args:
        run: does a job's work in the worker.
        limits: as for the local engine.
        gpu: `spaces.GPU`, or what stands in for it: takes `duration` and gives a decorator for generator functions.
        release: lets go of what `run` holds, when the engine is closed.
    """

    forks = True

    def __init__(self, run: Run, limits: Limits, gpu: Callable[..., Any], release: Callable[[], None] = lambda: None):
        self._release = release
        self._events = gpu(duration=seconds_for)(worker(run))
        self._callers: weakref.WeakKeyDictionary[Job, contextvars.Context] = weakref.WeakKeyDictionary()
        super().__init__(self._follow, limits)

    def submit(self, job: Job) -> Job:
        # The GPU is charged to whoever asks: `spaces` finds the person's request in the context of the call.
        self._callers[job] = contextvars.copy_context()
        return super().submit(job)

    def close(self, timeout: float = 10.0) -> None:
        super().close(timeout)
        self._release()

    def if_idle(self, work: Callable[[], Any]) -> None:
        """Nothing: outside of a job there is no device here."""
        return None

    def _follow(self, job: Job) -> None:
        self._callers.pop(job).run(self._replay, job)

    def _replay(self, job: Job) -> None:
        """Repeat on the parent's job what happened to the worker's."""
        with contextlib.closing(self._asked(job)) as events:
            for name, args, changes in events:
                if job.cancelled():
                    raise Cancelled  # closing the generator stops the worker after its next yield
                if name in _FAILURES:
                    raise _FAILURES[name](*args[:1] or ("",))
                if name not in _TOLD:
                    raise RuntimeError(f"a worker said {name!r}")
                getattr(job, name)(*args, **changes)

    def _asked(self, job: Job) -> Iterator[Event]:
        """The worker's events; what `spaces` refuses (no quota, no GPU, time is up) as a sentence."""
        from gradio.exceptions import Error

        events = self._events(job.task, job.request, job.id)
        try:
            yield from events
        except Error as error:
            raise BusyError(f"The Space's GPU was not given, or was taken back: {error.message}") from error
        finally:
            events.close()

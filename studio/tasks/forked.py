"""Tasks in the forked worker of a ZeroGPU Space: with the models that were loaded before the fork, and no others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import ModelMissingError
from pipelines.core.interruption import interruptible, large_modules
from pipelines.families.base import Family
from pipelines.models.extras import Extras
from studio.jobs.job import Job
from studio.tasks.context import TaskCaches, TaskContext

if TYPE_CHECKING:
    from pipelines.core.types import Choice
    from studio.tasks.base import Task

__all__ = [
    "LEAST_SECONDS",
    "MODELS",
    "MOST_SECONDS",
    "ForkedContext",
    "build_forked_run",
    "estimate_gpu_seconds",
    "list_preloaded_models",
]

MODELS = "STEPWISE_ZERO_MODELS"
"""Variable of a Space: keys of the models that it loads at its start, with commas between; default: the shipped one."""

LEAST_SECONDS, MOST_SECONDS = 15, 120
"""GPU time that a job asks for. It is taken from the person's quota, and the queue favors those who ask for little."""

_MEGAPIXEL_STEP = 0.5
"""Seconds."""


def estimate_gpu_seconds(task: Task, request: Any) -> int:
    """Estimate how long a job may hold the GPU: a generous guess from its steps, pictures, frames and pixels.

    Args:
        task: of the job.
        request: the checked request of that task.
    """
    base = getattr(request, "base", request)
    steps, extra_seconds = task.work(request)
    megapixels = (base.width or 1024) * (base.height or 1024) / 2**20
    guess = LEAST_SECONDS + extra_seconds + steps * max(megapixels, 0.05) * _MEGAPIXEL_STEP
    return int(min(max(guess, LEAST_SECONDS), MOST_SECONDS))


def list_preloaded_models(environ: Mapping[str, str] | None = None) -> Sequence[str]:
    """List the keys of the models that a ZeroGPU Space loads at its start."""
    environ = os.environ if environ is None else environ
    return [key.strip() for key in environ.get(MODELS, "emoji").split(",") if key.strip()]


def build_forked_run(
    context: TaskContext, keys: Sequence[str], tasks: Mapping[str, Task]
) -> tuple[Callable[[Job], None], Callable[[], None]]:
    """Load models for good: what does a job's work in a forked worker, taking no lock, and what lets the models go.

    Args:
        context: of the parent.
        keys: of the models.
        tasks: the task table.

    Raises:
        ModelError: one is not there, or is broken.
    """
    leases = contextlib.ExitStack()
    models = {key: leases.enter_context(context.model(key, Job("start", None))) for key in keys}
    bytes_on_disk = {key: context.disk_bytes(key, model) for key, model in models.items() if isinstance(model, Family)}
    forked = ForkedContext(context, models, bytes_on_disk)
    return lambda job: tasks[job.task].run(job.request, job, forked), leases.close


class ForkedContext:
    """Implements the TaskContext of a forked worker.

    Whatever would take a lock of the loader or of its cache is replaced here: a thread of the parent may have held it
    when the worker was forked, and then nobody would ever let it go. The catalog, the store and the models folder have
    no lock; the device is a plain value by now. What a worker keeps for later jobs ends with it.

    Args:
        parent: the context of the process that forks.
        models: key to what the parent holds for good.
        bytes_on_disk: key to what the parent's `disk_bytes` says.
    """

    def __init__(self, parent: TaskContext, models: Mapping[str, Any], bytes_on_disk: Mapping[str, int | None]):
        self._models, self._bytes_on_disk = models, bytes_on_disk
        self.limits, self.catalog, self.device = parent.limits, parent.catalog, parent.device
        self.store, self.learned, self.caches = parent.store, parent.learned, TaskCaches()
        self.given = parent.given
        # None of these takes a lock.
        self.traits, self.noise_schedule, self.expand = parent.traits, parent.noise_schedule, parent.expand
        self.lora_key, self.lora_path, self.load_loras = parent.lora_key, parent.lora_path, parent.load_loras
        self.require_live, self.has_waiting = parent.require_live, parent.has_waiting
        self.require_keeping, self.keep_quantized = parent.require_keeping, parent.keep_quantized  # both refuse here
        self.find_result = parent.find_result
        self.release_pictures = parent.release_pictures
        self.save_picture, self.encode_clip, self.save_clip = parent.save_picture, parent.encode_clip, parent.save_clip

    @contextlib.contextmanager
    def model(self, key: str, job: Job, extras: Extras = Extras()) -> Iterator[Any]:
        """Give a model that was loaded before the fork.

        Raises:
            ModelMissingError: it was not loaded at the start, or parts of the models folder are wanted.
        """
        if extras:
            raise ModelMissingError(
                "This Space loads its models when it starts, and no other parts. Set VAE to the model's own, and "
                "ControlNet, T2I-Adapter and IP-Adapter to none."
            )
        if key not in self._models:
            raise ModelMissingError(
                f"This Space loads its models when it starts: {', '.join(self._models)}. Choose one of "
                f"these, or name {key!r} in the variable {MODELS} of your own copy."
            )
        model = self._models[key]
        with interruptible(large_modules(model.components.values()), job.cancelled):
            yield model

    @contextlib.contextmanager
    def quantized(self, key: str, choice: Choice, full: Family, job: Job) -> Iterator[Family]:
        """Make a quantized copy of a model, in this process alone."""
        from pipelines.families import family_of
        from pipelines.quantizers import QUANTIZERS, CalibratedQuantizer, build_quantizer, this_machine
        from pipelines.quantizers.base import quantize_network
        from pipelines.requests.calibration import record_calibration

        quantizer = build_quantizer(choice, this_machine(self.device))
        calibrated = isinstance(quantizer, CalibratedQuantizer)
        calibration = record_calibration(full, job.cancelled) if calibrated else None
        label = QUANTIZERS[choice.key].label
        network = quantize_network(full.network, quantizer, label, job.cancelled, calibration=calibration)
        yield family_of({**full.components, full.network_name: network})

    def disk_bytes(self, key: str, family: Family) -> int | None:
        """Tell what was looked up before the fork."""
        return self._bytes_on_disk[key]

"""What tasks use where they run: one device, its loader, and what is kept there between jobs."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.core.types import Choice
from pipelines.models.device_choice import read_memory
from pipelines.models.loader import Loader
from studio.models import save_quantized
from studio.tasks.context import TaskCaches, TaskContext

__all__ = ["DeviceContext"]


class DeviceContext:
    """Serves tasks as the `TaskContext` of one device; what belongs to no device is the studio's.

    Args:
        studio: the context of no particular device.
        loader: of the device's models.

    Attributes:
        caches: what tasks keep between jobs: latents of one device are of no use on another.
    """

    def __init__(self, studio: TaskContext, loader: Loader):
        self.loader, self.caches = loader, TaskCaches()
        self.limits, self.catalog = studio.limits, studio.catalog
        self.store, self.learned, self.given = studio.store, studio.learned, studio.given
        # Both lend on the device that the job names.
        self.model, self.quantized = studio.model, studio.quantized
        self.traits, self.noise_schedule = studio.traits, studio.noise_schedule
        self.expand, self.disk_bytes = studio.expand, studio.disk_bytes
        self.lora_key, self.lora_path, self.load_loras = studio.lora_key, studio.lora_path, studio.load_loras
        self.require_keeping, self.require_live = studio.require_keeping, studio.require_live
        self.has_waiting = studio.has_waiting
        self.find_result, self.release_pictures = studio.find_result, studio.release_pictures
        self.save_picture, self.encode_clip, self.save_clip = studio.save_picture, studio.encode_clip, studio.save_clip

    @property
    def device(self) -> str:
        """Name where models are loaded: "cpu", "cuda", "cuda:1" or "mps"."""
        return self.loader.device

    def keep_quantized(self, model: str, choice: Choice, cancelled: Callable[[], bool]) -> str:
        """Write a quantized copy of a model into the models folder: see `TaskContext.keep_quantized`."""
        return save_quantized.keep(self, model, choice, cancelled)

    def suits(self, model: str) -> float:
        """Say how well the device suits a job when it is free: one that has the model first, then by free memory.

        Args:
            model: key of the catalog; another text is a model that no device has.
        """
        free = self.loader.cache.limit - self.loader.cache.used_bytes
        memory = read_memory(self.loader.device)
        free = max(0, min(free, memory.free) if memory else free)
        return free / 2**60 + (model in self.catalog and self.loader.loaded(model))


def _as_task_context(context: DeviceContext) -> TaskContext:
    """Let the type checker prove that tasks find all they use."""
    return context

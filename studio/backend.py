"""The studio behind every door: page, endpoints, command line and tests all go through this one object."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.core.errors import LoraError, SettingsError, UnknownMethodError
from pipelines.core.types import Choice, LoraChoice, Request, Traits
from pipelines.families.base import Family
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.catalog_folder import LoraEntry, scan_loras
from pipelines.models.entry import CatalogEntry
from pipelines.models.loader import Loader
from pipelines.requests.limits import Limits
from pipelines.requests.wildcards import expand_wildcards
from pipelines.schedules.learned import LearnedSchedules
from pipelines.workflows.video.request import VideoRequest
from studio import infotext
from studio.jobs.history import JobHistory
from studio.jobs.job import Frame, Job, JobStatus
from studio.jobs.local_engine import LocalEngine
from studio.jobs.sharp_frames import SharpFrames
from studio.media.clips import SUFFIXES, encode_clip, poster
from studio.models import save_quantized
from studio.models.model_list import ModelList
from studio.results.described import described
from studio.results.store import Store
from studio.tasks import TASKS
from studio.tasks.base import Task
from studio.tasks.context import TaskCaches
from studio.tasks.forked import forked_run, preloaded
from studio.tasks.recording import sharp

__all__ = ["Studio", "StudioSettings"]

_TRASH_SECONDS = 30 * 24 * 3600
_SHARE_OF_MEMORY = 0.5
_SHARE_OF_DEVICE = 0.85
_HEADROOM = 0.1
_TRAITS = {
    "sd": Traits("sd", "epsilon", "unet"),
    "sdxl": Traits("sdxl", "epsilon", "unet"),
    "sd3": Traits("sd3", "flow", "transformer"),
    "flux": Traits("flux", "flow", "transformer", "embedded"),
    "stock": Traits("stock", "epsilon", "pipeline"),
    "AnimateDiffPipeline": Traits("animatediff", "epsilon", "unet"),
}
"""What a family's models have in common, until one is loaded and says it itself; a pipeline's own line goes before its
family's: AnimateDiff is loaded as a stock pipeline and runs in the studio's loop."""


@dataclasses.dataclass(frozen=True)
class StudioSettings:
    """Where things are and how much may be used.

    Attributes:
        outputs: folder of the results; None for the person's own data folder.
        models: folder of the person's models; None likewise.
        memory_budget: bytes that loaded models may take; None for a share of the device's memory.
        limits: the caps.
        device: "cpu", "cuda" or "mps"; None for the best there is.
        gpu: what sends a job to a ZeroGPU Space's GPU (`spaces.GPU`); None where jobs run in this process.
    """

    outputs: Path | None = None
    models: Path | None = None
    memory_budget: int | None = None
    limits: Limits = Limits()
    device: str | None = None
    gpu: Callable[..., Any] | None = None


class Studio:
    """Models, jobs and results: the `TaskContext` of the tasks that run in this process.

    Args:
        settings: where things are and how much may be used.
        tasks: what it can be asked to do, by key.

    Attributes:
        limits: the caps of every request.
        store: of the results.
        catalog: the models that there are.
        loader: loads them.
        model_list: the models as a person sees them, with the loads and downloads on their way; one for page and programs
            together, so that only a few models are loaded at a time.
        caches: what tasks keep between jobs.
        engine: where jobs run.

    Raises:
        StoreError: the output folder cannot be written.
    """

    def __init__(self, settings: StudioSettings = StudioSettings(), tasks: Mapping[str, Task] = TASKS):
        self.limits, self.tasks = settings.limits, tasks
        self.store = Store(settings.outputs)
        self.store.reconcile()
        self.store.empty_trash(older_than=_TRASH_SECONDS)
        self.catalog = Catalog(settings.models)
        self.learned = LearnedSchedules.beside_models(self.catalog.folder)
        self.cache, host = _caches(settings)
        self.loader = Loader(self.cache, self.catalog, device=settings.device, host=host)
        self.model_list = ModelList(self.catalog, self.loader)
        self.caches = TaskCaches()
        self._traits: dict[str, Traits] = {}
        self.engine = self._zero(settings.gpu) if settings.gpu else LocalEngine(self._run, settings.limits)
        self._jobs, self._sharp_frames = JobHistory(), SharpFrames()

    # Jobs.

    def submit(self, task: str, values: Mapping[str, Any], owner: str = "") -> Job:
        """Check a request and queue it.

        Args:
            task: a key of the task table.
            values: plain and untrusted.
            owner: opaque id of whoever asks; "" for programs.

        Raises:
            SettingsError: the request cannot be, and why.
            BusyError: the queue is full.
        """
        if task not in self.tasks:
            raise UnknownMethodError("task", task, self.tasks)
        job = Job(task, self.tasks[task].parse(values, self), owner)
        self.engine.submit(job)
        self._jobs.add(job)
        return job

    def job(self, job_id: str) -> Job:
        """The job of this id, running or finished a while ago.

        Raises:
            SettingsError: it is unknown, or so old that only its stored results remain.
        """
        return self._jobs.get(job_id)

    def decode_frame(self, job_id: str, cell: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """A step of a finished run as (noisy latents, estimate of x0), each (B, H, W, 3), uint8.

        Sharp, through the model's decoder, while the device is idle and the model still in memory; else the small
        pictures of the run.

        Args:
            cell, step: from 0.

        Raises:
            SettingsError: the job is unknown, or has no such step.
        """
        job = self.job(job_id)
        cells = job.view().cells
        if not (0 <= cell < len(cells) and 0 <= step < len(cells[cell].frames)):
            raise SettingsError(f"This run has no step {step + 1}.")
        frame, model = cells[cell].frames[step], getattr(job.request, "model", "")
        pictures = None
        if frame.latents is not None and model in self.catalog and self.loader.loaded(model):
            pictures = self._sharp_frames.get((job.id, cell, step), lambda: self._sharp(frame, model))
        return pictures or (frame.noisy, frame.denoised)

    def _sharp(self, frame: Frame, model: str) -> tuple[np.ndarray, np.ndarray] | None:
        def decode() -> tuple[np.ndarray, np.ndarray]:
            with self.loader.model(model) as family:
                return sharp(frame, family)

        return self.engine.if_idle(decode)

    def latest(self) -> Job | None:
        """The job that was submitted last, if any is remembered."""
        return self._jobs.latest()

    def _zero(self, gpu: Callable[..., Any]) -> LocalEngine:
        from studio.jobs.zero_engine import ZeroEngine

        run, release = forked_run(self, preloaded(), self.tasks)
        return ZeroEngine(run, self.limits, gpu, release)

    def _run(self, job: Job) -> None:
        self.tasks[job.task].run(job.request, job, self)

    def close(self) -> None:
        """Stop the worker and let the models go."""
        self.engine.close()
        for key in self.catalog:
            self.loader.release(key)

    # Models.

    @property
    def device(self) -> str:
        """Where models are loaded: "cpu", "cuda" or "mps"."""
        return self.loader.device

    def models(self) -> Sequence[CatalogEntry]:
        """The catalog's entries, the shipped model first."""
        return list(self.catalog.values())

    def traits(self, model: str) -> Traits | None:
        """What methods ask of this model; None while it cannot be said without loading it."""
        entry = self.catalog[model]
        return self._traits.get(model) or _TRAITS.get(entry.pipeline) or _TRAITS.get(entry.family)

    @contextlib.contextmanager
    def model(self, key: str, job: Job) -> Iterator[Any]:
        """The model while the context lasts: a Family, or a StockPipeline for the rest of the catalog.

        Raises:
            ModelError: it is not there or broken.
            Cancelled: the job was stopped while it loaded.
        """

        def progress(stage: str, done: int, total: int) -> None:
            share = f" ({done / 1e9:.1f} of {total / 1e9:.1f} GB)" if total > 1e8 else ""
            job.set_status(JobStatus.LOADING, f"{stage} {self.catalog[key].label}{share}")

        with self.loader.model(key, job.cancelled, progress) as family:
            if isinstance(family, Family):
                self._traits[key] = family.traits
                own = self.loader.lora_files(key, job.cancelled, progress)
                with family.loras(own) if own else contextlib.nullcontext():
                    yield family
            else:
                yield family

    @contextlib.contextmanager
    def quantized(self, key: str, choice: Choice, full: Family, job: Job) -> Iterator[Family]:
        """A quantized copy of a model while the context lasts.

        Args:
            key: of the model in full precision.
            choice: of the quantizer table.
            full: that model, which the caller holds.
            job: whose cancel counts.

        Raises:
            ModelError: it cannot be quantized.
            Cancelled: the job was stopped.
        """
        with self.loader.model(key, job.cancelled, quantization=choice, source=full.network) as family:
            yield family

    def disk_bytes(self, key: str, family: Family) -> int | None:
        """Size of the files of a loaded model's network; None if it has none of its own."""
        return self.loader.disk_bytes(key, family.network_name)

    def require_keeping(self) -> None:
        """Raise SettingsError where a quantized model that is made now could not be used later."""
        if self.engine.forks:
            raise SettingsError(
                "This Space loads its models when it starts: a quantized model cannot be kept here. Leave keeping out."
            )

    def keep_quantized(self, model: str, choice: Choice, cancelled: Callable[[], bool]) -> str:
        """Write a quantized copy of a model into the models folder; returns the copy's key.

        Raises:
            StepwiseError: it cannot be made or written, and why.
        """
        return save_quantized.keep(self, model, choice, cancelled)

    def loras(self, model: str) -> list[str]:
        """Names of the LoRAs in the models folder that are made for this model's family."""
        family = self.catalog[model].family
        return [lora.key for lora in self._loras() if lora.family in (family, "") and not lora.problem]

    def lora_path(self, name: str) -> Path:
        """The file of a LoRA of the models folder.

        Raises:
            LoraError: there is none of this name.
        """
        known = {lora.key: lora for lora in self._loras()}
        if name not in known:
            raise LoraError(
                f"There is no LoRA {name[:80]!r} in the models folder. Known: {', '.join(known) or 'none'}."
            )
        if known[name].problem:
            raise LoraError(known[name].problem)
        return known[name].path

    def _loras(self) -> list[LoraEntry]:
        return scan_loras(self.catalog.folder)

    def load_loras(self, choices: Sequence[LoraChoice]) -> list[tuple[Path, float]]:
        """What `Family.loras` takes."""
        return [(self.lora_path(choice.name), choice.weight) for choice in choices]

    # Prompts.

    def wildcards(self) -> Mapping[str, list[str]]:
        """Lists of the models folder's `wildcards/*.txt`, one line a choice, read anew each time."""
        folder = self.catalog.folder / "wildcards"
        if not folder.is_dir():
            return {}
        return {
            path.stem: [line.strip() for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
            for path in sorted(folder.glob("*.txt"))
            if path.is_file()
        }

    def expand(self, prompt: str, seed: int) -> str:
        """The prompt with its wildcards drawn."""
        return expand_wildcards(prompt, seed, self.wildcards())

    # Results.

    def save_picture(
        self,
        image: np.ndarray,
        request: Request,
        job: Job,
        index: int = 0,
        figures: Mapping[str, Any] | None = None,
        unread: Collection[str] = (),
    ) -> str:
        """Store one finished picture (H, W, 3), uint8, with its settings inside; returns its id.

        Args:
            unread: methods of the request that its model took no notice of, which the file must not claim.

        Raises:
            StoreError: it cannot be written.
        """
        height, width = image.shape[:2]
        metadata, parameters = self._described(request.replace(width=width, height=height), figures, unread)
        return self.store.save(Image.fromarray(image), metadata, parameters, kind=job.task, job=job.id, index=index).id

    def encode_clip(self, frames: np.ndarray, request: VideoRequest) -> bytes:
        """The file of a finished clip (F, H, W, 3), uint8, with its settings inside.

        Raises:
            StoreError: it cannot be written in this format.
        """
        return encode_clip(frames, request.fps, request.format, self._described(request.base, None, request.unread)[1])

    def save_clip(
        self, data: bytes, frames: np.ndarray, request: VideoRequest, job: Job, figures: Mapping[str, Any] | None = None
    ) -> str:
        """Store one finished clip, the file that `encode_clip` made of its frames, with its settings beside it; returns its id.

        Raises:
            StoreError: it cannot be written.
        """
        metadata, parameters = self._described(request.base, figures, request.unread)
        metadata |= {"animate": request.to_json(), "poster": poster(frames[0])}
        size = (frames.shape[2], frames.shape[1])
        return self.store.save_bytes(
            data, SUFFIXES[request.format], metadata, parameters, kind="video", job=job.id, size=size
        ).id

    def _described(
        self, request: Request, figures: Mapping[str, Any] | None, unread: Collection[str] = ()
    ) -> tuple[dict[str, Any], str]:
        """A result's metadata, and the same as text."""
        return described(request, self.catalog[request.model].label, self.traits(request.model), figures, unread)

    def read_picture(self, path: str) -> infotext.Restored | None:
        """The settings that an uploaded picture carries.

        Args:
            path: the server's own temporary file of the upload, never text from a request.
        """
        return infotext.read(path)


def _caches(settings: StudioSettings) -> tuple[ModelCache, ModelCache | None]:
    """The cache of the device, and on a GPU one for the computer's own memory beside it."""
    memory = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _SHARE_OF_MEMORY)
    if settings.device == "cpu" or not torch.cuda.is_available():
        budget = settings.memory_budget or memory
        return ModelCache(budget, int(budget * _HEADROOM)), None
    budget = settings.memory_budget or int(torch.cuda.mem_get_info()[1] * _SHARE_OF_DEVICE)
    return ModelCache(budget, int(budget * _HEADROOM)), ModelCache(memory)

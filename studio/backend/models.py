"""The models of a studio: what there is, what is known of each, and leases of loaded ones with their LoRAs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.controls.direction_files import FOLDER, list_fitting
from pipelines.core.errors import LoraError, ModelFileError, StepwiseError
from pipelines.core.interruption import interruptible, large_modules
from pipelines.core.schedule import NoiseSchedule
from pipelines.core.types import Choice, LoraChoice, Traits
from pipelines.families.base import Family
from pipelines.families.depth import with_depth
from pipelines.models.activations import Work
from pipelines.models.additions import fits_model
from pipelines.models.catalog import Catalog
from pipelines.models.catalog_folder import LoraEntry
from pipelines.models.companions import explain_companion_misfit
from pipelines.models.entry import CatalogEntry
from pipelines.models.extras import Extras
from pipelines.models.files import read_part_config
from pipelines.models.load_request import LoadRequest
from pipelines.models.loader import Loader
from pipelines.models.noise_schedules import read_noise_schedule
from pipelines.models.steering import explain_misfit
from pipelines.models.steering_entry import SteeringEntry
from pipelines.models.vaes import VaeEntry, explain_vae_misfit, read_vae_facts
from pipelines.requests.calibration import record_calibration
from pipelines.requests.wildcard_files import read_lists
from pipelines.requests.wildcards import expand_wildcards
from pipelines.schedules.learned import LearnedSchedules
from studio.backend.settings import TRAITS, StudioSettings, build_caches
from studio.jobs.job import Job, JobStatus
from studio.models.lora_names import find_lora
from studio.models.model_list import ModelList

__all__ = ["StudioModels"]

_OWN_LOOP = ("sd", "sdxl", "sd3", "flux")
"""Families whose noise schedule is that of their scheduler's file."""

_USUAL_SIDES = {"sdxl": 1024, "sd3": 1024, "flux": 1024}
"""Pixels of a side that the published models of a family draw; 512 of others."""


class StudioModels:
    """Holds the models folder's content and lends loaded models to jobs.

    Args:
        settings: where models are, and how much memory they may take.

    Attributes:
        catalog: the models that there are.
        learned: the learned schedules, shipped ones and those of the models folder.
        loaders: load them, one for each device; `loader` is the first.
        cache: holds the loaded models on the first device.
        model_list: the models as a person sees them, with the loads and downloads on their way; one for page and
            programs together, so that only a few models are loaded at a time.
    """

    def __init__(self, settings: StudioSettings) -> None:
        self.catalog = Catalog(settings.models, further=settings.more_models, follow_links=settings.follow_links)
        self.learned = LearnedSchedules.beside_models(self.catalog.folder)
        devices = (settings.device, *settings.more_devices)
        self.loaders = [self._build_loader(settings, device) for device in devices]
        self.loader, self.cache = self.loaders[0], self.loaders[0].cache
        self.model_list = ModelList(self.catalog, *self.loaders)
        self._compiles = settings.acceleration.compile
        self._traits: dict[str, Traits] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._noise_schedules: dict[str, NoiseSchedule] = {}

    def _build_loader(self, settings: StudioSettings, device: str | None) -> Loader:
        cache, host = build_caches(settings, device)
        return Loader(cache, self.catalog, device, settings.dtype, host=host, acceleration=settings.acceleration)

    @property
    def device(self) -> str:
        """Name the first device: "cpu", "cuda", "cuda:1" or "mps"."""
        return self.loader.device

    def get_loader(self, device: str) -> Loader:
        """Return a device's loader; the first for "", the device of a job that no engine has started."""
        return next((loader for loader in self.loaders if loader.device == device), self.loader)

    def is_loaded(self, model: str) -> bool:
        """Say whether all of a model's parts are in memory on one of the devices."""
        return any(loader.loaded(model) for loader in self.loaders)

    def models(self) -> Sequence[CatalogEntry]:
        """List the catalog's entries, the shipped model first."""
        return list(self.catalog.values())

    def get_default_size(self, model: str) -> tuple[int, int] | None:
        """Return the (width, height) in pixels that a model draws by itself; None until it was loaded once."""
        return self._sizes.get(model)

    def traits(self, model: str) -> Traits | None:
        """Return what methods ask of this model; None while it cannot be said without loading it."""
        entry = self.catalog[model]
        traits = self._traits.get(model)
        if not traits and (traits := TRAITS.get(entry.pipeline) or TRAITS.get(entry.family)) and entry.path:
            # A broken file is reported where the model is loaded.
            configs = [read_part_config(entry.path, part) for part in (traits.backbone, "text_encoder")]
            traits = with_depth(traits, *configs)
        return traits and dataclasses.replace(traits, compiled=self._compiles)

    def noise_schedule(self, model: str) -> NoiseSchedule | None:
        """Return a model's own noise schedule; None while it cannot be said without loading it."""
        entry = self.catalog[model]
        if model in self._noise_schedules:
            return self._noise_schedules[model]
        if entry.path is None or not entry.path.is_dir() or entry.family not in _OWN_LOOP:
            return None
        with contextlib.suppress(ModelFileError):  # a broken file is reported where the model is loaded
            return read_noise_schedule(entry.path, (_USUAL_SIDES.get(entry.family, 512),) * 2)
        return None

    @contextlib.contextmanager
    def model(self, key: str, job: Job, extras: Extras = Extras()) -> Iterator[Any]:
        """Lend the model on the job's device: a Family, or a StockPipeline for the rest of the catalog.

        Raises:
            ModelError: it is not there or broken.
            SettingsError: a part of the models folder does not fit it.
            Cancelled: the job was stopped while it loaded.
        """

        def report_progress(stage: str, done: int, total: int) -> None:
            share = f" ({done / 1e9:.1f} of {total / 1e9:.1f} GB)" if total > 1e8 else ""
            job.set_status(JobStatus.LOADING, f"{stage} {self.catalog[key].label}{share}")

        loader, work = self.get_loader(job.device), self._find_work(key, job.request)
        with (
            loader.model(key, job.cancelled, report_progress, request=LoadRequest(extras, work=work)) as family,
            interruptible(large_modules(family.components.values()), job.cancelled),
        ):
            if loader.host is not None:
                job.set_status(JobStatus.LOADING, loader.describe_placement(key, work))
            if isinstance(family, Family):
                self._traits[key], self._sizes[key] = family.traits, family.default_size
                self._noise_schedules[key] = family.noise_schedule
                model_loras = loader.lora_files(key, job.cancelled, report_progress)
                with family.loras(model_loras) if model_loras else contextlib.nullcontext():
                    yield family
            else:
                yield family

    def describe_placement(self, key: str) -> str:
        """Say in one sentence where a model's parts stay for a picture of its usual size; "" without a GPU."""
        with contextlib.suppress(StepwiseError):  # a broken file is reported where the model is loaded
            return self.loader.describe_placement(key, self._find_work(key, None))
        return ""

    def _find_work(self, key: str, request: object) -> Work:
        """What a request gives the network of a model at once, as far as it says."""
        base = getattr(request, "base", request)
        usual = self.get_default_size(key) or (_USUAL_SIDES.get(self.catalog[key].family, 512),) * 2
        width, height = (getattr(base, name, 0) or side for name, side in zip(("width", "height"), usual, strict=True))
        # One row with and one without the prompt, for each picture.
        return Work(2 * (getattr(base, "batch_size", 1) or 1), width, height)

    @contextlib.contextmanager
    def quantized(self, key: str, choice: Choice, full: Family, job: Job) -> Iterator[Family]:
        """Lend a quantized copy of a model on the job's device.

        Args:
            key: of the model in full precision.
            choice: of the quantizer table.
            full: that model, which the caller holds.
            job: whose cancel counts.

        Raises:
            ModelError: it cannot be quantized.
            Cancelled: the job was stopped.
        """

        def report_progress(stage: str, done: int, total: int) -> None:
            if stage != "Loading":
                job.set_status(JobStatus.LOADING, f"{stage} {done + 1} of {total}" if total > 1 else stage)

        calibrate = functools.partial(record_calibration, full, job.cancelled, report_progress)
        lease = self.get_loader(job.device).model(
            key,
            job.cancelled,
            report_progress,
            request=LoadRequest(quantization=choice, source=full.network, calibrate=calibrate),
        )
        with (
            lease as family,
            interruptible([family.network], job.cancelled),
        ):
            yield family

    def disk_bytes(self, key: str, family: Family) -> int | None:
        """Return the bytes of the files of a loaded model's network; None if it has none of its own."""
        sizes = (loader.disk_bytes(key, family.network_name) for loader in self.loaders)
        return next((size for size in sizes if size is not None), None)

    def loras(self, model: str) -> list[str]:
        """List the LoRAs, by name, that are made for this model, as far as their files tell."""
        entry = self.catalog[model]
        return [lora.key for lora in self.catalog.loras() if fits_model(lora, entry)]

    def vaes(self, model: str) -> list[VaeEntry]:
        """List the VAEs of the models folder that read this model's latents, as far as their files tell."""
        own = read_vae_facts(self.catalog[model])
        return [vae for vae in self.catalog.vaes() if not explain_vae_misfit(vae, own)]

    def companions(self, model: str) -> list[CatalogEntry]:
        """List the models that can draw together with this one, as far as their files tell."""
        first = self.catalog[model]
        return [
            entry
            for entry in self.catalog.values()
            if entry.key != model and entry.local and not explain_companion_misfit(entry, first)
        ]

    def directions(self, model: str) -> list[str]:
        """List the names of the files of directions for sliders that are of this model."""
        return list_fitting(self.catalog.folder / FOLDER, model)

    def steering(self, model: str, what: str) -> list[SteeringEntry]:
        """List the ControlNets, T2I-Adapters or IP-Adapters, also the shipped ones, that are made for a model.

        Args:
            model: key of the catalog.
            what: a kind of `pipelines.models.steering`.
        """
        entry = self.catalog[model]
        return [one for one in self.catalog.steering(what) if not explain_misfit(one, entry)]

    def lora_path(self, name: str, model: str = "") -> Path:
        """Find the file of a LoRA of the models folder.

        Args:
            name: untrusted.
            model: key of the chosen one, for the names in the refusal.

        Raises:
            LoraError: there is none of this name.
        """
        lora = self._find_lora(name, model)
        if lora.problem:
            raise LoraError(lora.problem)
        return lora.path

    def lora_key(self, name: str, model: str = "") -> str:
        """Find the key of the LoRA that a prompt names: by its key or by its file's name, capitals or not.

        Args:
            name: untrusted.
            model: key of the chosen one, for the names in the refusal.

        Raises:
            LoraError: there is none of this name; the sentence says the nearest names.
        """
        return self._find_lora(name, model).key

    def _find_lora(self, name: str, model: str) -> LoraEntry:
        loras = self.catalog.loras()
        fitting = [lora.key for lora in loras if not model or fits_model(lora, self.catalog[model])]
        return find_lora(loras, name, fitting)

    def load_loras(self, choices: Sequence[LoraChoice]) -> list[tuple[Path, float]]:
        """Return the files and weights that `Family.loras` takes."""
        return [(self.lora_path(choice.name), choice.weight) for choice in choices]

    def wildcards(self) -> Mapping[str, list[str]]:
        """Lists of the models folder's `wildcards`, read anew each time."""
        return read_lists(self.catalog.folder / "wildcards")

    def expand(self, prompt: str, seed: int, stream: str = "") -> str:
        """Return the prompt with its wildcards drawn; each stream draws for itself."""
        return expand_wildcards(prompt, seed, self.wildcards(), stream)

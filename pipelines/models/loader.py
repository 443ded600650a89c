"""From a key of the catalog to a model that is ready to be used, sharing what models have in common."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.core.errors import ModelError
from pipelines.core.leases import PartKey, Wanted
from pipelines.core.types import Choice
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.catalog_folder import TINY_VAE
from pipelines.models.files import PartFiles, read_json
from pipelines.models.part_loading import (
    free_part,
    load_checkpoint,
    load_part,
    loaded_bytes,
    new_scheduler,
    pipeline_class,
)
from pipelines.models.places import ModelPlaces
from pipelines.models.plan import CHECKPOINT, Plan, Plans
from pipelines.models.quantization_folder import quantized_entry
from pipelines.models.quantization_loading import load_quantized
from pipelines.weights.offload import Slot, offloaded

__all__ = ["Loader", "MemoryRow"]

NETWORKS = frozenset({"unet", "transformer", "transformer_2", "prior", TINY_VAE})
"""Parts that every step calls, which therefore stay on the device where others come and go."""

HOST = "host"
"""The device in the keys of parts that wait in the computer's memory."""

Progress = Callable[[str, int, int], None]
"""Called with what is going on ("Downloading", "Loading"), bytes done and bytes in all."""


@dataclasses.dataclass(frozen=True)
class MemoryRow:
    """One part for a memory bar.

    Attributes:
        label: the part's name, e.g. "unet".
        models: keys of the models that use it.
        bytes: that it takes.
        device: where it is; "host" for parts that come to the device only for a call.
        in_use: how many jobs hold it.
        state: "reserved", "loading", "ready" or "freeing".
    """

    label: str
    models: tuple[str, ...]
    bytes: int
    device: str
    in_use: int
    state: str


class Loader:
    """Models by their catalog key, as leases over cached parts.

    Args:
        cache: the parts on the device, within its budget.
        catalog: keys to entries.
        device: where models run; None takes CUDA where there is one, else the CPU.
        dtype: of the weights, e.g. "bfloat16"; None takes float32 on the CPU and what the family likes on a GPU.
        places: where files are found and fetched.
        host: a cache for the computer's own memory; with it, a model that is too large for the device keeps its
            text encoders and VAE there, and each comes to the device for its call.
    """

    def __init__(
        self,
        cache: ModelCache,
        catalog: Catalog,
        device: str | None = None,
        dtype: str | None = None,
        places: ModelPlaces | None = None,
        host: ModelCache | None = None,
    ):
        self.cache, self.catalog, self.host = cache, catalog, host
        self.places = places or ModelPlaces(catalog)
        self._device, self._dtype = device, dtype
        self._names: dict[PartKey, tuple[str, set[str]]] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    @functools.cached_property
    def device(self) -> str:
        """Where models run."""
        if self._device is None:
            import torch

            return "cuda" if torch.cuda.is_available() else "cpu"
        return self._device

    @functools.cached_property
    def _plans(self) -> Plans:
        return Plans(self.places, self.device, self._dtype)

    @functools.cached_property
    def _slot(self) -> Slot:
        return Slot(self.device)

    @contextlib.contextmanager
    def model(
        self,
        key: str,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Progress | None = None,
        timeout: float = 120.0,
        quantization: Choice | None = None,
        source: Any = None,
    ) -> Iterator[Any]:
        """A model while the context lasts: a `Family`, or a `StockPipeline` for pipelines that have none.

        Args:
            key: of the catalog.
            cancelled: polled while files arrive, while waiting, and while layers are quantized.
            progress: told about downloads and loads.
            timeout: seconds to wait for memory.
            quantization: makes it the quantized model, as if that stood in the catalog.
            source: the model's network in full precision, where the caller holds it: it is copied and not read again.

        Raises:
            UnknownMethodError: no model has this key.
            ModelError: the model is not here, broken, or too large.
            BusyError: other jobs hold the memory.
            Cancelled: the person stopped it.
        """
        entry = self.catalog[key] if quantization is None else quantized_entry(self.catalog[key], quantization)
        plan = self._plans.plan(entry, cancelled, _staged(progress, "Downloading"))
        resident, moved = self._placed(plan)
        self._remember(entry.key if entry.key in self.catalog else key, resident | moved)
        told = _LoadProgress(progress, sum(plan.estimates.values()), cancelled, source)
        with contextlib.ExitStack() as stack:
            held: dict[PartKey, Any] = {}
            wanted = [self._want(plan, name, part, told) for name, part in resident.items()]
            if moved:
                wanted.append(self._room(plan, moved, stack))
                self.cache.require_possible(wanted)
                # Always the computer's memory first, then the device's, so that two jobs cannot wait for each other.
                held |= stack.enter_context(
                    self.host.acquire(
                        [self._want(plan, name, part, told) for name, part in moved.items()], timeout, cancelled
                    )
                )
            held |= stack.enter_context(self.cache.acquire(wanted, timeout, cancelled))
            if moved:
                stack.callback(self._slot.clear)
            yield self._built(plan, {name: held[part] for name, part in (resident | moved).items()})

    def lora_files(
        self, key: str, cancelled: Callable[[], bool] = lambda: False, progress: Progress | None = None
    ) -> list[tuple[Path, float]]:
        """The LoRA files, with their weights, that belong to this form of a model (LCM-LoRA, Hyper-SD).

        They are to be applied for each job together with the request's own, since other forms share the network.

        Raises:
            UnknownMethodError: no model has this key.
            ModelMissingError: a file is not here and cannot be fetched.
            Cancelled: the person stopped it.
        """
        entry = self.catalog[key]
        if entry.lora is None:
            return []
        return [(self.places.source(entry, entry.lora, cancelled, _staged(progress, "Downloading")), 1.0)]

    def disk_bytes(self, key: str, name: str) -> int | None:
        """Size of the weight files of one part of a model that was used before; None if it has none of its own."""
        plan = self._plans.known(key)
        files = plan.parts.get(name) if plan else None
        return sum(path.stat().st_size for path in files.weights) if files else None

    def release(self, key: str) -> bool:
        """Free what only this model uses: True if it is gone, False if a job holds some, which goes when that ends."""
        with self._lock:
            mine = [part for part, (_, models) in self._names.items() if models == {key}]
            for _, models in self._names.values():
                models.discard(key)
        # A list, so that every part is asked and not only those before the first that is in use.
        return all([cache.release(part) for cache in (self.cache, self.host) if cache for part in mine])

    def loaded(self, key: str) -> bool:
        """Whether all of a model's parts are in memory now."""
        plan = self._plans.known(key)
        if plan is None:
            return False
        resident, moved = self._placed(plan)
        return all(self.cache.holds(part) for part in resident.values()) and all(
            self.host.holds(part) for part in moved.values()
        )

    def memory(self) -> list[MemoryRow]:
        """What is in memory, for a memory bar, the most recently used first."""
        rows = [row for cache in (self.cache, self.host) if cache for row in cache.snapshot()]
        with self._lock:
            named = {
                row.key: (label, tuple(sorted(models)))
                for row in rows
                for label, models in [self._names.get(row.key, (row.key.part, set()))]
            }
        return [MemoryRow(*named[row.key], row.bytes, row.key.device, row.pins, row.state) for row in rows]

    def _remember(self, key: str, parts: Mapping[str, PartKey]) -> None:
        with self._lock:
            for name, part in parts.items():
                self._names.setdefault(part, (name, set()))[1].add(key)

    def _placed(self, plan: Plan) -> tuple[dict[str, PartKey], dict[str, PartKey]]:
        """Parts that live on the device, and those that wait in the computer's memory and come for a call."""
        resident, moved = dict(plan.keys), {}
        if self.host and not plan.checkpoint and sum(plan.estimates.values()) > self.cache.limit:
            moved = {
                name: part._replace(device=HOST)
                for name, part in plan.keys.items()
                if name not in NETWORKS and not plan.parts[name].light
            }
            resident = {name: part for name, part in plan.keys.items() if name not in moved}
        return resident, moved

    def _want(self, plan: Plan, name: str, part: PartKey, told: _LoadProgress) -> Wanted:
        files, estimate = plan.parts.get(name), plan.estimates[plan.keys[name]]

        def load() -> Any:
            made = self._load(plan, files, part, told)
            told.add(estimate)
            return made

        return Wanted(part, estimate, load, free_part, lambda made: loaded_bytes(made) or estimate)

    def _load(self, plan: Plan, files: PartFiles | None, part: PartKey, told: _LoadProgress) -> Any:
        if part.quantization:
            return load_quantized(plan, files, part, told.source, told.cancelled)
        if files is None:
            return load_checkpoint(plan.checkpoint, plan.entry.pipeline, plan.folder, part.dtype, part.device)
        if part.device == HOST:
            return offloaded(load_part(files, part.dtype, "cpu"), self._slot)
        return load_part(files, part.dtype, part.device)

    def _room(self, plan: Plan, moved: Mapping[str, PartKey], stack: contextlib.ExitStack) -> Wanted:
        """Room on the device for the largest part that comes and goes, as long as the lease lasts."""
        key = PartKey(f"room {next(self._numbers)}", part="room for moved parts", device=self.device)
        stack.callback(self.cache.release, key)
        return Wanted(key, max(plan.estimates[plan.keys[name]] for name in moved), lambda: None)

    def _built(self, plan: Plan, held: Mapping[str, Any]) -> Any:
        """The family or pipeline, with a scheduler of its own, which changes while it is used."""
        from pipelines.families import FAMILIES, family_of
        from pipelines.families.preview import read_factors
        from pipelines.families.stock import StockPipeline
        from pipelines.initializations.fitted import fitted_folder
        from pipelines.schedules.learned import LearnedSchedules

        empty = dict.fromkeys(name for name, files in plan.parts.items() if files is None)
        components = {**plan.settings, **empty, **held}
        if plan.checkpoint:
            components = {**held[CHECKPOINT], **{name: held[name] for name in plan.parts}}
            components["scheduler"] = type(components["scheduler"]).from_config(components["scheduler"].config)
        for name, files in plan.parts.items():
            if files is not None and "Scheduler" in files.class_name:
                components[name] = new_scheduler(files, read_json(files.folder / "scheduler_config.json"))
        factors = None if plan.checkpoint else read_factors(plan.folder)
        if plan.entry.family in FAMILIES:
            fitted = {"fitted_starts": fitted_folder(plan.entry.key, self.catalog.folder)}
            family = family_of(components | fitted | ({"preview": factors} if factors else {}))
            family.identity = tuple(sorted(plan.keys.items()))
            family.learned = LearnedSchedules.beside_models(self.catalog.folder)
            return family
        return StockPipeline(_assembled(plan, components), factors)


class _LoadProgress:
    """Bytes of the parts that were loaded, told as they are done; and what a load of a quantized part needs."""

    def __init__(self, progress: Progress | None, total: int, cancelled: Callable[[], bool], source: Any):
        self.progress, self.total, self.done = progress, total, 0
        self.cancelled, self.source = cancelled, source

    def add(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress("Loading", self.done, self.total)


def _assembled(plan: Plan, components: Mapping[str, Any]) -> Any:
    try:
        return pipeline_class(plan.entry.pipeline)(**components)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{plan.entry.label} cannot be put together as {plan.entry.pipeline} ({error}). Choose another model."
        ) from error


def _staged(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return progress and (lambda done, total: progress(stage, done, total))

"""From a key of the catalog to a model that is ready to be used, sharing what models have in common."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.leases import PartKey, Wanted
from pipelines.models.activations import Work
from pipelines.models.assembly import assemble_model
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.companions import add_companions, find_companions, joined
from pipelines.models.device_choice import Acceleration, choose_device
from pipelines.models.entry import CatalogEntry
from pipelines.models.extras import Extras
from pipelines.models.files import PartFiles
from pipelines.models.load_progress import LoadProgress, Progress, report_stage
from pipelines.models.load_request import LoadRequest
from pipelines.models.memory_row import MemoryRow
from pipelines.models.part_loading import free_part, load_part, loaded_bytes
from pipelines.models.placement import EIGHT_BITS, HOST
from pipelines.models.places import ModelPlaces
from pipelines.models.placing import Placing
from pipelines.models.plan import QUANTIZED_PARTS, Plan, Plans
from pipelines.models.quantization_folder import quantized_entry
from pipelines.models.quantization_loading import load_eight_bits, load_outline, load_quantized
from pipelines.models.steering_choice import find_extra_steering
from pipelines.models.vaes import find_vae
from pipelines.weights.offload import Slot, offloaded, streamed

if TYPE_CHECKING:
    import torch


__all__ = ["Loader"]


class Loader:
    """Provides models by their catalog key, as leases over cached parts.

    Args:
        cache: the parts on the device, within its budget.
        catalog: keys to entries.
        device: where models run; None takes the best that there is.
        dtype: of the weights, e.g. "bfloat16"; None takes float32 on the CPU and what the family likes on a GPU, "auto"
            bfloat16 for large models on a CPU that computes in it, too.
        places: where files are found and fetched.
        host: a cache for the computer's own memory; with it, a model that is too large for the device keeps parts
            there, as `place_parts` says.
        acceleration: what is done to networks when they are loaded.
    """

    def __init__(
        self,
        cache: ModelCache,
        catalog: Catalog,
        device: str | None = None,
        dtype: str | None = None,
        places: ModelPlaces | None = None,
        host: ModelCache | None = None,
        acceleration: Acceleration = Acceleration(),
    ):
        self.cache, self.catalog, self.host = cache, catalog, host
        self.places = places or ModelPlaces(catalog)
        self._device, self._dtype, self._acceleration = device, dtype, acceleration
        self._names: dict[PartKey, tuple[str, set[str]]] = {}
        self._rows_by_network: dict[PartKey, dict[int, int]] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    @functools.cached_property
    def device(self) -> str:
        """Where models run."""
        return choose_device() if self._device is None else self._device

    @functools.cached_property
    def _plans(self) -> Plans:
        return Plans(self.places, self.device, self._dtype)

    @functools.cached_property
    def _placing(self) -> Placing:
        return Placing(self.cache, self.host, self.device)

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
        request: LoadRequest = LoadRequest(),
    ) -> Iterator[Any]:
        """Provide a model while the context lasts: a `Family`, or a `StockPipeline` for pipelines that have none.

        Args:
            key: of the catalog.
            cancelled: polled while files arrive, while waiting, and while layers are quantized.
            progress: called about downloads and loads.
            timeout: seconds to wait for memory.
            request: in which form the model is taken, with what, and for which work.

        Raises:
            UnknownMethodError: no model, or no part, has this key.
            SettingsError: a part does not fit the model.
            ModelError: the model is not here, broken, or too large.
            BusyError: other jobs hold the memory.
            Cancelled: the person stopped it.
        """
        entry, extras = self._entry(key), request.extras
        if request.quantization is not None:
            entry = quantized_entry(entry, request.quantization)
        plan = self._plans.plan(entry, cancelled, report_stage(progress, "Downloading"))
        if extras:
            plan = self._extend(plan, extras)
        found = find_companions(self.catalog, extras.companions, plan.entry)
        companions = [self._plans.plan(one, cancelled, report_stage(progress, "Downloading")) for one in found]
        plan = add_companions(plan, companions) if companions else plan
        placement, activations = self._placing.place(plan, request.work)
        resident, offloaded_parts = dict(placement.resident), dict(placement.moved)
        self._remember(entry.key if entry.key in self.catalog else key, resident | offloaded_parts)
        load_progress = LoadProgress(progress, sum(plan.estimates.values()), cancelled, request)
        with contextlib.ExitStack() as stack:
            objects: dict[PartKey, Any] = {}
            build = functools.partial(self._build_request, plan, placement.sizes, load_progress)
            requests = [build(name, part) for name, part in resident.items()]
            if activations:
                requests.append(self._reserve_room(activations, "room for activations", stack))
            if offloaded_parts and self.host is not None:
                requests.append(self._reserve_room(placement.room, "room for moved parts", stack))
                self.cache.require_possible(requests)
                # Always the computer's memory first, then the device's, so that two jobs cannot wait for each other.
                objects |= stack.enter_context(
                    self.host.acquire([build(name, part) for name, part in offloaded_parts.items()], timeout, cancelled)
                )
            objects |= stack.enter_context(self.cache.acquire(requests, timeout, cancelled))
            if offloaded_parts:
                stack.callback(self._slot.clear)
            parts = {name: objects[part] for name, part in (resident | offloaded_parts).items()}
            model = assemble_model(plan, parts, self.catalog, self._rows_by_network)
            stack.enter_context(joined(model, companions, parts, self.catalog, self._rows_by_network))
            stack.enter_context(self._placing.measured(plan, parts))
            yield model

    def _extend(self, plan: Plan, extras: Extras) -> Plan:
        vae = find_vae(self.catalog.vaes(), extras.vae, plan.entry) if extras.vae else None
        steering = find_extra_steering(self.catalog, extras, plan.entry)
        return self._plans.extend(plan, vae, steering)

    def _entry(self, key: str) -> CatalogEntry:
        """The catalog's entry; of a model with a problem, as its files are now, since they may have been repaired."""
        if self.catalog[key].problem and self.catalog[key].local:
            self.catalog.rescan()
        return self.catalog[key]

    def lora_files(
        self, key: str, cancelled: Callable[[], bool] = lambda: False, progress: Progress | None = None
    ) -> list[tuple[Path, float]]:
        """Return the LoRA files, with their weights, that belong to this form of a model (LCM-LoRA, Hyper-SD).

        They are to be applied for each job together with the request's own, since other forms share the network.

        Raises:
            UnknownMethodError: no model has this key.
            ModelMissingError: a file is not here and cannot be fetched.
            Cancelled: the person stopped it.
        """
        entry = self.catalog[key]
        if entry.lora is None:
            return []
        return [(self.places.source(entry, entry.lora, cancelled, report_stage(progress, "Downloading")), 1.0)]

    def disk_bytes(self, key: str, name: str) -> int | None:
        """Count the size of the weight files of one part of a model that was used before; None if it has none of its
        own."""
        plan = self._plans.find(key)
        files = plan.parts.get(name) if plan else None
        return sum(path.stat().st_size for path in files.weights) if files and not files.within else None

    def release(self, key: str) -> bool:
        """Free what only this model uses: True if it is gone, False if a job holds some, which goes when that ends."""
        with self._lock:
            own_parts = [part for part, (_, models) in self._names.items() if models == {key}]
            for _, models in self._names.values():
                models.discard(key)
        # A list, so that every part is asked and not only those before the first that is in use.
        return all([cache.release(part) for cache in (self.cache, self.host) if cache for part in own_parts])  # noqa: C419

    def loaded(self, key: str) -> bool:
        """Say whether all of a model's parts are in memory now."""
        plan = self._plans.find(key)
        if plan is None:
            return False
        placement = self._placing.find(plan)
        resident, offloaded_parts = placement.resident, placement.moved
        return all(self.cache.holds(part) for part in resident.values()) and all(
            self.host is not None and self.host.holds(part) for part in offloaded_parts.values()
        )

    def memory(self) -> list[MemoryRow]:
        """List what is in memory, for a memory bar, the most recently used first."""
        rows = [row for cache in (self.cache, self.host) if cache for row in cache.snapshot()]
        with self._lock:
            names = {
                row.key: (label, tuple(sorted(models)))
                for row in rows
                for label, models in [self._names.get(row.key, (row.key.part, set()))]
            }
        return [MemoryRow(*names[row.key], row.bytes, row.key.device, row.pins, row.state) for row in rows]

    def _remember(self, key: str, parts: Mapping[str, PartKey]) -> None:
        with self._lock:
            for name, part in parts.items():
                self._names.setdefault(part, (name, set()))[1].add(key)

    def describe_placement(self, key: str, work: Work | None = None) -> str:
        """Say in one sentence where the parts of a model stay while it is used.

        Args:
            key: of the catalog.
            work: what the network is to be given.

        Returns:
            The sentence; empty where there is no such choice and it fits, and of a model that is not on this machine.
        """
        entry, plan = self.catalog[key], self._plans.find(key)
        if entry.problem or (self.host is None and self.device == "cpu"):
            return ""
        if plan is None and entry.local:
            plan = self._plans.plan(entry, lambda: False, None)
        if plan is None:
            return ""
        sentence, fits = self._placing.describe(plan, work)
        return sentence if self.host is not None or not fits else ""

    def outline(self, key: str) -> torch.nn.Module:
        """Make the network of a model that was used before, without its weights.

        Raises:
            ModelFileError: it has no network that could be quantized.
        """
        plan = self._plans.find(key) or self._plans.plan(self.catalog[key], lambda: False, None)
        name = next((name for name in QUANTIZED_PARTS if plan.parts.get(name)), QUANTIZED_PARTS[0])
        return load_outline(plan.require_part(name))

    def _build_request(
        self, plan: Plan, sizes: Mapping[str, int], load_progress: LoadProgress, name: str, part: PartKey
    ) -> Wanted:
        files, estimate = plan.require_part(name), sizes[name]

        def load(abandoned: Callable[[], bool]) -> Any:
            value = self._load_part(plan, files, part, load_progress, lambda: load_progress.ends(abandoned))
            load_progress.add(estimate)
            return value

        return Wanted(part, estimate, load, free_part, lambda value: loaded_bytes(value) or estimate)

    def _load_part(
        self,
        plan: Plan,
        files: PartFiles,
        part: PartKey,
        load_progress: LoadProgress,
        abandoned: Callable[[], bool],
    ) -> Any:
        waits = part.device.startswith(HOST)
        if part.quantization == EIGHT_BITS:
            module = load_eight_bits(files, part.dtype, abandoned).to("cpu" if waits else part.device)
        elif part.quantization:
            request = load_progress.request
            return load_quantized(
                plan, files, part, request.source, abandoned, request.calibrate, load_progress.progress
            )
        if not part.quantization:
            module = load_part(files, part.dtype, "cpu" if waits else part.device, abandoned)
        self._arrange(files.name, module, part.device)
        if not waits:
            return module
        return offloaded(module, self._slot) if part.device == HOST else streamed(module, self.device)

    def _arrange(self, name: str, module: Any, device: str) -> None:
        if name in QUANTIZED_PARTS:
            self._acceleration.apply(module)
        elif name == "vae" and device == "cpu" and module is not None:
            # Late: listing models imports no PyTorch.
            from pipelines.models.cpu_convolutions import use_channels_last
            from pipelines.models.cpu_upsampling import join_upsampling
            from pipelines.models.cpu_winograd import use_fewer_products

            use_channels_last(module)
            join_upsampling(module)
            use_fewer_products(module)

    def _reserve_room(self, room: int, what: str, stack: contextlib.ExitStack) -> Wanted:
        """Room on the device that no model takes as long as the lease lasts."""
        key = PartKey(f"room {next(self._numbers)}", part=what, device=self.device)
        stack.callback(self.cache.release, key)
        return Wanted(key, room, lambda abandoned: None)

"""What is to be loaded for a model: its parts on disk, their keys in the cache and their sizes."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import ModelFileError
from pipelines.core.leases import PartKey
from pipelines.models.device_choice import computes_bfloat16
from pipelines.models.downloads import Progress
from pipelines.models.entry import CatalogEntry
from pipelines.models.files import PartFiles, part_folder, read_index, read_json
from pipelines.models.places import ModelPlaces
from pipelines.models.steering import build_steering_part
from pipelines.models.steering_entry import SteeringEntry
from pipelines.models.vaes import VaeEntry, build_vae_part
from pipelines.weights.part_identity import PartIdentities

__all__ = ["CHECKPOINT", "QUANTIZED_PARTS", "Plan", "Plans"]

_LARGE = 2**30
"""Bytes of a model's files from which halving its memory counts for more than exact repetition of float32."""

QUANTIZED_PARTS = ("unet", "transformer")
"""Parts that are quantized: the denoising network, whatever its name."""

CHECKPOINT = "checkpoint"
"""The name under which all parts of a checkpoint file stand together."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Describes a model's parts as found on disk at one moment.

    Attributes:
        entry: of the catalog.
        folder: the model's folder, or the one with a checkpoint file's configurations.
        parts: by name; None for places that stay empty. Of a checkpoint file only those that it lacks.
        settings: the pipeline's other settings.
        keys: name to key of everything that the cache holds; schedulers are made anew for each job.
        estimates: bytes by key.
        tiny_places: where a tiny decoder for previews may stand.
    """

    entry: CatalogEntry
    folder: Path
    parts: Mapping[str, PartFiles | None]
    settings: Mapping[str, Any]
    keys: Mapping[str, PartKey]
    estimates: Mapping[PartKey, int]
    tiny_places: tuple[Path, ...] = ()

    @property
    def checkpoint(self) -> Path | None:
        """The file, where the model is one."""
        return self.entry.path if CHECKPOINT in self.keys else None

    def stamp(self) -> tuple | None:
        """Return places, sizes and times of all files and which tiny decoders there are; None where a file is gone."""
        paths = [self.checkpoint or self.folder / "model_index.json"]
        try:
            paths += [path for part in self.parts.values() if part for path in part.files()]
            if self.entry.quantized and self.entry.quantized.file:
                paths.append(self.entry.quantized.file)
            files = tuple((str(path), status.st_size, status.st_mtime_ns) for path in paths for status in [path.stat()])
            return files, tuple(place.is_dir() for place in self.tiny_places)
        except OSError:
            return None


def _describe_quantization(entry: CatalogEntry, name: str = "") -> str:
    """What of a part's key says how it is quantized: only the denoising network ever is.

    Args:
        name: of the part; "" for all parts of a checkpoint file together.
    """
    if entry.quantized is None or (name and name not in QUANTIZED_PARTS):
        return ""
    method, file = json.dumps(entry.quantized.choice.to_json(), sort_keys=True), entry.quantized.file
    return f"{method} from {file} of {file.stat().st_mtime_ns}" if file else method


class Plans:
    """Keeps plans by model, made again only when a file has changed.

    Args:
        places: where files are found and fetched.
        device: where models run, "cpu", "cuda", ...
        dtype: of the weights; None takes float32 on the CPU and on a GPU what the family likes, if it has that;
            "auto" takes bfloat16 for large models on a CPU that computes in it, too.
    """

    def __init__(self, places: ModelPlaces, device: str, dtype: str | None = None):
        self.places, self.device, self.dtype = places, device, dtype
        self._identities = PartIdentities()
        self._plans: dict[str, tuple[tuple | None, Plan]] = {}
        self._lock = threading.Lock()

    def find(self, key: str) -> Plan | None:
        """Find the last plan of a model, if it was used before."""
        with self._lock:
            return self._plans.get(key, (None, None))[1]

    def plan(self, entry: CatalogEntry, cancelled: Callable[[], bool], progress: Progress | None) -> Plan:
        """Plan the model's parts, with its missing files fetched.

        Raises:
            ModelFileError: a file is broken or missing.
            ModelMissingError: a published model is not here and cannot be fetched.
            Cancelled: the person stopped it.
        """
        if entry.problem:
            raise ModelFileError(entry.problem)
        with self._lock:
            stamp, plan = self._plans.get(entry.key, (None, None))
        if plan is None or plan.entry != entry or stamp is None or stamp != plan.stamp():
            if entry.path is not None and not entry.path.is_dir():
                plan = self._plan_file(entry.path, entry, cancelled, progress)
            else:
                plan = self._plan_folder(entry, cancelled, progress)
            with self._lock:
                self._plans[entry.key] = (plan.stamp(), plan)
        return plan

    def extend(self, plan: Plan, vae: VaeEntry | None = None, steering: Sequence[SteeringEntry] = ()) -> Plan:
        """Return a plan with parts of the models folder in it.

        Args:
            plan: of a model.
            vae: in the place of the model's own.
            steering: what is run beside the network.

        Raises:
            ModelFileError: files of a part are missing.
            SettingsError: a part does not fit the model.
        """
        added: dict[str, PartFiles | None] = {}
        if vae is not None:
            added["vae"] = build_vae_part(vae, part_folder(plan.folder, "vae"), self._list_variants(plan.entry))
        networks = (part_folder(plan.folder, name) for name in QUANTIZED_PARTS)
        network = next((place for place in networks if place.is_dir()), plan.folder)
        for one in steering:
            added[one.what] = build_steering_part(one, network, self._list_variants(plan.entry))
        keys, estimates = self._build_keys(plan.entry, added)
        keys = {**plan.keys, **keys}
        known = {**plan.estimates, **estimates}
        return dataclasses.replace(
            plan, parts={**plan.parts, **added}, keys=keys, estimates={key: known[key] for key in keys.values()}
        )

    def _plan_file(
        self, path: Path, entry: CatalogEntry, cancelled: Callable[[], bool], progress: Progress | None
    ) -> Plan:
        config = self.places.config_folder(entry, cancelled, progress)
        dtype = self._choose_base_dtype(entry)
        key = PartKey(
            self._identities.name([path]),
            "",
            f"{CHECKPOINT} {entry.file.prediction}".strip() if entry.file else CHECKPOINT,
            dtype,
            _describe_quantization(entry),
            self.device,
        )
        completing = self.places.completing_parts(entry, config, self._list_variants(entry))
        parts = {**completing, **self._find_tiny(entry, config)}
        keys, estimates = self._build_keys(entry, parts)
        estimates[key] = self.places.checkpoint_bytes(entry, dtype)
        settings = read_index(config)[1]
        return Plan(
            entry, config, parts, settings, {CHECKPOINT: key, **keys}, estimates, self._list_tiny_places(entry, config)
        )

    def _plan_folder(self, entry: CatalogEntry, cancelled: Callable[[], bool], progress: Progress | None) -> Plan:
        folder, parts, settings = self.places.parts(entry, self._list_variants(entry), cancelled, progress)
        parts = {**parts, **self._find_tiny(entry, folder)}
        keys, estimates = self._build_keys(entry, parts)
        return Plan(entry, folder, parts, settings, keys, estimates, self._list_tiny_places(entry, folder))

    def _find_tiny(self, entry: CatalogEntry, folder: Path) -> dict[str, PartFiles]:
        part = self.places.tiny_vae(entry, folder, self._list_variants(entry))
        return {part.name: part} if part else {}

    def _list_tiny_places(self, entry: CatalogEntry, folder: Path) -> tuple[Path, ...]:
        return tuple(self.places.tiny_places(entry, folder))

    def _build_keys(
        self, entry: CatalogEntry, parts: Mapping[str, PartFiles | None]
    ) -> tuple[dict[str, PartKey], dict[PartKey, int]]:
        """Of the parts that the cache holds, the keys by name and the bytes by key."""
        keys: dict[str, PartKey] = {}
        estimates: dict[PartKey, int] = {}
        for name, part in parts.items():
            if part is None or "Scheduler" in part.class_name:
                continue
            dtype = "" if part.light else self._choose_dtype(entry, part)
            keys[name] = PartKey(
                self._identities.name(part.files()),
                "",
                f"{part.library}.{part.class_name}",
                dtype,
                _describe_quantization(entry, name),
                device="cpu" if part.light else self.device,
            )
            estimates[keys[name]] = part.estimate_bytes(dtype)
        return keys, estimates

    def _list_variants(self, entry: CatalogEntry) -> Sequence[str]:
        half = self.device != "cpu" and self.dtype != "float32"
        return (entry.variant or "fp16", "") if half else ("", entry.variant)

    def _choose_base_dtype(self, entry: CatalogEntry) -> str:
        if self.dtype and self.dtype != "auto":
            return self.dtype
        if self.device == "cpu":
            large = (entry.size_bytes or 0) >= _LARGE
            return "bfloat16" if self.dtype == "auto" and large and computes_bfloat16("cpu") else "float32"
        likes = "float16" if entry.family in {"sd", "sdxl"} else "bfloat16"
        return likes if likes == "float16" or computes_bfloat16(self.device) else "float32"

    def _choose_dtype(self, entry: CatalogEntry, part: PartFiles) -> str:
        dtype = self._choose_base_dtype(entry)
        if part.class_name == "AutoencoderKLWan":
            return "float32"
        if part.class_name.startswith("Autoencoder") and dtype == "float16":
            # Most overflow in half precision; one that does not says so.
            return dtype if read_json(part.folder / "config.json").get("force_upcast") is False else "float32"
        return dtype

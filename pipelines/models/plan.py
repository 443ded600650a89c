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
from pipelines.models.downloads import Progress
from pipelines.models.entry import CatalogEntry
from pipelines.models.files import PartFiles, read_json
from pipelines.models.places import ModelPlaces
from pipelines.weights.part_identity import PartIdentities

__all__ = ["CHECKPOINT", "QUANTISED", "Plan", "Plans"]

QUANTISED = ("unet", "transformer")
"""Parts that are quantized: the denoising network, whatever its name."""

CHECKPOINT = "checkpoint"
"""The name under which all parts of a checkpoint file stand together."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A model's parts as found on disk at one moment.

    Attributes:
        entry: of the catalog.
        folder: the model's folder, or the one with a checkpoint file's configurations.
        parts: by name; None for places that stay empty. Empty for a checkpoint file.
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
        """Places, sizes and times of all files and which tiny decoders are there, or None where a file is gone."""
        paths = [self.entry.path] if self.checkpoint else [self.folder / "model_index.json"]
        try:
            paths += [path for part in self.parts.values() if part for path in part.files()]
            if self.entry.quantized and self.entry.quantized.file:
                paths.append(self.entry.quantized.file)
            files = tuple((str(path), status.st_size, status.st_mtime_ns) for path in paths for status in [path.stat()])
            return files, tuple(place.is_dir() for place in self.tiny_places)
        except OSError:
            return None


def _quantization(entry: CatalogEntry, name: str = "") -> str:
    """What of a part's key says how it is quantized: only the denoising network ever is.

    Args:
        name: of the part; "" for all parts of a checkpoint file together.
    """
    if entry.quantized is None or (name and name not in QUANTISED):
        return ""
    method, file = json.dumps(entry.quantized.choice.to_json(), sort_keys=True), entry.quantized.file
    return f"{method} from {file} of {file.stat().st_mtime_ns}" if file else method


class Plans:
    """Plans by model, made again only when a file has changed.

    Args:
        places: where files are found and fetched.
        device: where models run, "cpu", "cuda", ...
        dtype: of the weights; None takes float32 on the CPU and what the family likes on a GPU.
    """

    def __init__(self, places: ModelPlaces, device: str, dtype: str | None = None):
        self.places, self.device, self.dtype = places, device, dtype
        self._identities = PartIdentities()
        self._known: dict[str, tuple[tuple | None, Plan]] = {}
        self._lock = threading.Lock()

    def known(self, key: str) -> Plan | None:
        """The last plan of a model, if it was used before."""
        with self._lock:
            return self._known.get(key, (None, None))[1]

    def plan(self, entry: CatalogEntry, cancelled: Callable[[], bool], progress: Progress | None) -> Plan:
        """The model's parts, its missing files fetched.

        Raises:
            ModelFileError: a file is broken or missing.
            ModelMissingError: a published model is not here and cannot be fetched.
            Cancelled: the person stopped it.
        """
        if entry.problem:
            raise ModelFileError(entry.problem)
        with self._lock:
            stamp, plan = self._known.get(entry.key, (None, None))
        if plan is None or plan.entry != entry or stamp is None or stamp != plan.stamp():
            single = entry.path is not None and not entry.path.is_dir()
            plan = (self._of_file if single else self._of_folder)(entry, cancelled, progress)
            with self._lock:
                self._known[entry.key] = (plan.stamp(), plan)
        return plan

    def _of_file(self, entry: CatalogEntry, cancelled: Callable[[], bool], progress: Progress | None) -> Plan:
        config = self.places.config_folder(entry, cancelled, progress)
        dtype = self._base_dtype(entry)
        key = PartKey(self._identities.name([entry.path]), "", CHECKPOINT, dtype, _quantization(entry), self.device)
        parts = self._tiny(entry, config)
        keys, estimates = self._keyed(entry, parts)
        estimates[key] = self.places.checkpoint_bytes(entry, dtype)
        return Plan(entry, config, parts, {}, {CHECKPOINT: key, **keys}, estimates, self._tiny_places(entry, config))

    def _of_folder(self, entry: CatalogEntry, cancelled: Callable[[], bool], progress: Progress | None) -> Plan:
        folder, parts, settings = self.places.parts(entry, self._variants(entry), cancelled, progress)
        parts = {**parts, **self._tiny(entry, folder)}
        keys, estimates = self._keyed(entry, parts)
        return Plan(entry, folder, parts, settings, keys, estimates, self._tiny_places(entry, folder))

    def _tiny(self, entry: CatalogEntry, folder: Path) -> dict[str, PartFiles]:
        found = self.places.tiny_vae(entry, folder, self._variants(entry))
        return {found.name: found} if found else {}

    def _tiny_places(self, entry: CatalogEntry, folder: Path) -> tuple[Path, ...]:
        return tuple(self.places.tiny_places(entry, folder))

    def _keyed(
        self, entry: CatalogEntry, parts: Mapping[str, PartFiles | None]
    ) -> tuple[dict[str, PartKey], dict[PartKey, int]]:
        """Of the parts that the cache holds, the keys by name and the bytes by key."""
        keys: dict[str, PartKey] = {}
        estimates: dict[PartKey, int] = {}
        for name, part in parts.items():
            if part is None or "Scheduler" in part.class_name:
                continue
            dtype = "" if part.light else self._dtype_of(entry, part)
            keys[name] = PartKey(
                self._identities.name(part.files()),
                "",
                f"{part.library}.{part.class_name}",
                dtype,
                _quantization(entry, name),
                device="cpu" if part.light else self.device,
            )
            estimates[keys[name]] = part.estimate_bytes(dtype)
        return keys, estimates

    def _variants(self, entry: CatalogEntry) -> Sequence[str]:
        half = self.device != "cpu" and self.dtype != "float32"
        return (entry.variant or "fp16", "") if half else ("", entry.variant)

    def _base_dtype(self, entry: CatalogEntry) -> str:
        if self.dtype or self.device == "cpu":
            return self.dtype or "float32"
        return "float16" if entry.family in {"sd", "sdxl"} else "bfloat16"

    def _dtype_of(self, entry: CatalogEntry, part: PartFiles) -> str:
        dtype = self._base_dtype(entry)
        if part.class_name == "AutoencoderKLWan":
            return "float32"
        if part.class_name.startswith("Autoencoder") and dtype == "float16":
            # Most overflow in half precision; one that does not says so.
            return dtype if read_json(part.folder / "config.json").get("force_upcast") is False else "float32"
        return dtype

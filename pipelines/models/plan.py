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
from pipelines.models.steering import build_steering_part, is_control_lora
from pipelines.models.steering_entry import CONTROLNET, SteeringEntry
from pipelines.models.vaes import VaeEntry, build_vae_part
from pipelines.weights.files import bytes_as
from pipelines.weights.part_identity import PartIdentities

__all__ = ["QUANTIZED_PARTS", "Plan", "Plans"]

_LARGE = 2**30
"""Bytes of a model's files from which halving its memory counts for more than exact repetition of float32."""

_BITS = {"int8": 8.5, "fp8": 8.5, "layerwise": 8.0, "nf4": 5.0, "int4": 5.0}
"""Bits of a weight with its share of the scales, by quantizer, rounded up."""

QUANTIZED_PARTS = ("unet", "transformer")
"""Parts that are quantized: the denoising network, whatever its name."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Describes a model's parts as found on disk at one moment.

    Attributes:
        entry: of the catalog.
        folder: the model's folder, or the one with a checkpoint file's configurations.
        parts: by name; None for places that stay empty.
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
        return self.entry.path if self.entry.path is not None and not self.entry.path.is_dir() else None

    def require_part(self, name: str) -> PartFiles:
        """Return the files of a part that the model has.

        Raises:
            ModelFileError: its place is empty.
        """
        part = self.parts.get(name)
        if part is None:
            raise ModelFileError(f"{self.entry.label} has no {name}. Choose another model.")
        return part

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


def _describe_quantization(entry: CatalogEntry, name: str) -> str:
    """What of a part's key says how it is quantized: only the denoising network ever is."""
    if entry.quantized is None or name not in QUANTIZED_PARTS:
        return ""
    method, file = json.dumps(entry.quantized.choice.to_json(), sort_keys=True), entry.quantized.file
    return f"{method} from {file} of {file.stat().st_mtime_ns}" if file else method


def _estimate_bytes(entry: CatalogEntry, part: PartFiles, dtype: str) -> int:
    """The memory of a part; a quantized network's by its file or its method, or as if it were not quantized."""
    whole = part.estimate_bytes(dtype)
    if entry.quantized is None or part.name not in QUANTIZED_PARTS:
        return whole
    if entry.quantized.file is not None:
        return min(whole, int(1.02 * entry.quantized.file.stat().st_size))
    bits = _BITS.get(entry.quantized.choice.key)
    if bits is None:
        return whole
    matrices = [one for one in part.tensors() if len(one.shape) >= 2]
    saved = bytes_as(matrices, dtype) - sum(one.count for one in matrices) * bits / 8
    # Layers that stay as they are: input, output, embeddings.
    return min(whole, int(1.15 * max(0.0, whole - saved)))


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
        if any(is_control_lora(one) for one in steering):
            # It becomes a copy of the network's encoder and middle, which are less than half of it.
            whole = max((plan.estimates[plan.keys[name]] for name in QUANTIZED_PARTS if name in plan.keys), default=0)
            estimates[keys[CONTROLNET]] += whole // 2
        keys = {**plan.keys, **keys}
        known = {**plan.estimates, **estimates}
        return dataclasses.replace(
            plan, parts={**plan.parts, **added}, keys=keys, estimates={key: known[key] for key in keys.values()}
        )

    def _plan_file(
        self, path: Path, entry: CatalogEntry, cancelled: Callable[[], bool], progress: Progress | None
    ) -> Plan:
        config = self.places.config_folder(entry, cancelled, progress)
        parts = {
            **self.places.checkpoint_parts(entry, config, self._list_variants(entry)),
            **self._find_tiny(entry, config),
        }
        keys, estimates = self._build_keys(entry, parts)
        settings = read_index(config)[1]
        return Plan(entry, config, parts, settings, keys, estimates, self._list_tiny_places(entry, config))

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
                f"{part.library}.{part.class_name}{f' {name}' if part.within else ''}",
                dtype,
                _describe_quantization(entry, name),
                device="cpu" if part.light else self.device,
            )
            estimates[keys[name]] = _estimate_bytes(entry, part, dtype)
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

"""The models a person can choose: the shipped one, published ones, and what stands in the models folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from pathlib import Path
from typing import Any

from pipelines.core.errors import UnknownMethodError
from pipelines.models.additions import list_embeddings, list_loras, list_upscalers
from pipelines.models.catalog_folder import EmbeddingEntry, LoraEntry, UpscalerEntry, scan
from pipelines.models.donors import complete_entries
from pipelines.models.entry import CatalogEntry, Source, shorten_path
from pipelines.models.files import weight_files
from pipelines.models.folder_lists import models_folder
from pipelines.models.folder_walk import ModelFolders
from pipelines.models.quantization_folder import read_quantized_entries
from pipelines.models.steering import list_steering
from pipelines.models.steering_entry import SteeringEntry
from pipelines.models.vaes import VaeEntry, list_vaes

__all__ = [
    "SHIPPED_KEYS",
    "Catalog",
    "published",
    "shipped",
    "shipped_128",
    "shipped_flow",
    "shipped_motion",
    "shorten_path",
]

PUBLISHED = Path(__file__).with_name("catalog_published.json")
SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "models" / "emoji"
SHIPPED_128 = SHIPPED.with_name("emoji-128")
SHIPPED_FLOW = SHIPPED.with_name("emoji-128-flow")
SHIPPED_MOTION = SHIPPED.with_name("emoji-128-motion")
SHIPPED_KEYS = ("emoji", "emoji-128", "emoji-128-flow", "emoji-128-motion")


def shipped() -> CatalogEntry:
    """Return the model that comes with the program and runs without a network."""
    notes = "Small pictures of single objects; trained here and shipped with the program."
    return _build_shipped_entry("emoji", "Emoji 64", SHIPPED, 64, notes)


def shipped_128() -> CatalogEntry:
    """Describe the larger model that comes with the program: 128 px, relations, sizes and counts."""
    notes = "One object, two in a relation, or two to four of one; trained here and shipped with the program."
    return _build_shipped_entry("emoji-128", "Emoji 128", SHIPPED_128, 128, notes)


def shipped_flow() -> CatalogEntry:
    """Describe the flow transformer that comes with the program: it draws what the 128 px UNet draws."""
    notes = "Draws what Emoji 128 draws, with a dual-stream transformer and a rectified flow."
    entry = _build_shipped_entry("emoji-128-flow", "Emoji 128 flow", SHIPPED_FLOW, 128, notes)
    defaults = {**entry.defaults, "sampler": "flow_euler"}
    return dataclasses.replace(entry, family="sd3", pipeline="StableDiffusion3Pipeline", defaults=defaults)


def shipped_motion() -> CatalogEntry:
    """Describe the clips that come with the program: a motion adapter on the 128 px model."""
    notes = "Clips of 16 frames: what Emoji 128 draws moves left, right, up or down, grows, shrinks or bounces."
    entry = _build_shipped_entry("emoji-128-motion", "Emoji 128 motion", SHIPPED_MOTION, 128, notes)
    return dataclasses.replace(entry, family="stock", kind="video", pipeline="AnimateDiffPipeline", num_frames=16)


def _build_shipped_entry(key: str, label: str, folder: Path, side: int, notes: str) -> CatalogEntry:
    defaults = {
        "num_inference_steps": 25,
        "width": side,
        "height": side,
        "sampler": "dpmpp_2m",
        "guidance": {"key": "cfg", "guidance_scale": 4.0},
    }
    return CatalogEntry(
        key,
        label,
        "sd",
        pipeline="StableDiffusionPipeline",
        path=folder,
        licence="mit",
        size_bytes=sum(path.stat().st_size for path in weight_files(folder)),
        defaults=defaults,
        notes=notes,
    )


def published() -> list[CatalogEntry]:
    """Return the published models, as `catalog_published.json` lists them."""
    return [_parse_entry(line) for line in json.loads(PUBLISHED.read_text(encoding="utf-8"))]


def _parse_entry(line: Mapping[str, Any]) -> CatalogEntry:
    fields = dict(line)
    fields["parts"] = {name: Source(**source) for name, source in line.get("parts", {}).items()}
    fields["lora"] = Source(**line["lora"]) if line.get("lora") else None
    fields["unverified"] = tuple(line.get("unverified", ()))
    return CatalogEntry(**fields)


def _place_beside_bases(
    entries: Mapping[str, CatalogEntry], quantized: Mapping[str, CatalogEntry]
) -> dict[str, CatalogEntry]:
    """All entries, the quantized ones each behind the model it was made of."""
    merged: dict[str, CatalogEntry] = {}
    for key, entry in entries.items():
        merged[key] = entry
        merged |= {name: one for name, one in quantized.items() if one.quantized and one.quantized.base == key}
    return merged


class Catalog(Mapping[str, CatalogEntry]):
    """Lists models by key, in the order in which a page lists them; the only way from a request to a file.

    Args:
        folder: the models folder; None takes the person's own.
        entries: in place of the shipped, local and published ones, for tests.
        further: more folders whose files are listed too.
        follow_links: whether links that lead out of a folder are followed.
    """

    def __init__(
        self,
        folder: Path | None = None,
        entries: Iterable[CatalogEntry] | None = None,
        further: Sequence[Path] = (),
        follow_links: bool = False,
    ):
        self.folder = folder or models_folder()
        self.folders = ModelFolders(self.folder, further, follow_links)
        self._fixed_entries = None if entries is None else list(entries)
        self._entries: dict[str, CatalogEntry] = {}
        self.rescan()

    def rescan(self) -> None:
        """Look into the models folder again."""
        entries = self._fixed_entries
        if entries is None:
            bundled, others = [shipped(), shipped_128(), shipped_flow(), shipped_motion()], published()
            local = scan(self.folders, used_keys=[entry.key for entry in (*bundled, *others)])
            # The shipped models complete no file of a person's: their text encoders know the emoji alone.
            entries = [*bundled, *complete_entries(local, others, self.folders), *others]
        by_key = {entry.key: entry for entry in entries}
        quantized = {
            entry.key: entry for entry in read_quantized_entries(self.folder, by_key) if entry.key not in by_key
        }
        # Replaced as a whole and never changed, so that other threads see the old or the new one.
        self._entries = _place_beside_bases(by_key, quantized)

    def loras(self) -> list[LoraEntry]:
        """Return the LoRAs of the models folders as they are now, unusable ones with their problem, and the shipped."""
        return list_loras(self.folders)

    def embeddings(self) -> list[EmbeddingEntry]:
        """Return the textual-inversion embeddings of the models folders as they are now, and the shipped ones."""
        return list_embeddings(self.folders)

    def upscalers(self) -> list[UpscalerEntry]:
        """Return the upscalers of the models folders as they are now, and the shipped ones."""
        return list_upscalers(self.folders)

    def vaes(self) -> list[VaeEntry]:
        """Return the VAEs that stand by themselves in the models folders as they are now, unusable ones too."""
        return list_vaes(self.folders)

    def steering(self, what: str) -> list[SteeringEntry]:
        """Return the ControlNets, T2I-Adapters, IP-Adapters or image encoders of the models folders as they are now.

        Behind the T2I-Adapters are the shipped ones.

        Args:
            what: a kind of `pipelines.models.steering`.
        """
        return list_steering(self.folders, what)

    def __getitem__(self, key: str) -> CatalogEntry:
        try:
            return self._entries[key]
        except (KeyError, TypeError):
            raise UnknownMethodError("model", key, self._entries) from None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self._entries

    def get(self, key: str, default: Any = None) -> Any:
        return self._entries.get(key, default)

    def items(self) -> ItemsView[str, CatalogEntry]:
        """Return keys and entries of one moment, also while the folder is looked into again."""
        return self._entries.items()

    def values(self) -> ValuesView[CatalogEntry]:
        """Return entries of one moment."""
        return self._entries.values()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

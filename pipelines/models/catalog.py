"""The models a person can choose: the shipped one, published ones, and what stands in the models folder."""

from __future__ import annotations

import json
import os
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from pathlib import Path
from typing import Any

from pipelines.core.errors import UnknownMethodError
from pipelines.models.catalog_folder import EmbeddingEntry, LoraEntry, scan, scan_embeddings, scan_loras
from pipelines.models.donors import completed
from pipelines.models.entry import CatalogEntry, Source, shown
from pipelines.models.folder_walk import ModelFolders
from pipelines.models.quantization_folder import kept_entries

__all__ = ["SHIPPED_KEYS", "Catalog", "models_folder", "published", "shipped", "shipped_128", "shown"]

PUBLISHED = Path(__file__).with_name("catalog_published.json")
SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "models" / "emoji"
SHIPPED_128 = SHIPPED.with_name("emoji-128")
SHIPPED_KEYS = ("emoji", "emoji-128")


def models_folder() -> Path:
    """Where a person puts models: $STEPWISE_MODELS, else `stepwise/models` among the user's data."""
    chosen = os.environ.get("STEPWISE_MODELS")
    if chosen:
        return Path(chosen).expanduser()
    data = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data).expanduser() / "stepwise" / "models"


def shipped() -> CatalogEntry:
    """The model that comes with the program and runs without a network."""
    return CatalogEntry(
        "emoji",
        "Emoji 64",
        "sd",
        pipeline="StableDiffusionPipeline",
        path=SHIPPED,
        licence="mit",
        size_bytes=sum(path.stat().st_size for path in SHIPPED.glob("*/*.safetensors")),
        defaults={
            "num_inference_steps": 25,
            "width": 64,
            "height": 64,
            "sampler": "dpmpp_2m",
            "guidance": {"key": "cfg", "guidance_scale": 4.0},
        },
        notes="Small pictures of single objects; trained here and shipped with the program.",
    )


def shipped_128() -> CatalogEntry:
    """Describe the larger model that comes with the program: 128 px, relations, sizes and counts."""
    return CatalogEntry(
        "emoji-128",
        "Emoji 128",
        "sd",
        pipeline="StableDiffusionPipeline",
        path=SHIPPED_128,
        licence="mit",
        size_bytes=sum(path.stat().st_size for path in SHIPPED_128.glob("*/*.safetensors")),
        defaults={
            "num_inference_steps": 25,
            "width": 128,
            "height": 128,
            "sampler": "dpmpp_2m",
            "guidance": {"key": "cfg", "guidance_scale": 4.0},
        },
        notes="One object, two in a relation, or two to four of one; trained here and shipped with the program.",
    )


def published() -> list[CatalogEntry]:
    """The published models, as `catalog_published.json` lists them."""
    return [_entry(line) for line in json.loads(PUBLISHED.read_text(encoding="utf-8"))]


def _entry(line: Mapping[str, Any]) -> CatalogEntry:
    fields = dict(line)
    fields["parts"] = {name: Source(**source) for name, source in line.get("parts", {}).items()}
    fields["lora"] = Source(**line["lora"]) if line.get("lora") else None
    fields["unverified"] = tuple(line.get("unverified", ()))
    return CatalogEntry(**fields)


def _beside_their_bases(found: Mapping[str, CatalogEntry], kept: Mapping[str, CatalogEntry]) -> dict[str, CatalogEntry]:
    """All entries, the quantized ones each behind the model it was made of."""
    ordered: dict[str, CatalogEntry] = {}
    for key, entry in found.items():
        ordered[key] = entry
        ordered |= {own: one for own, one in kept.items() if one.quantized and one.quantized.base == key}
    return ordered


class Catalog(Mapping[str, CatalogEntry]):
    """Models by key, in the order in which a page lists them; the only way from a request to a file.

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
        self._given = None if entries is None else list(entries)
        self._entries: dict[str, CatalogEntry] = {}
        self.rescan()

    def rescan(self) -> None:
        """Look into the models folder again."""
        entries = self._given
        if entries is None:
            own, others = [shipped(), shipped_128()], published()
            local = scan(self.folders, taken=[entry.key for entry in (*own, *others)])
            entries = [*own, *completed(local, [*own, *others], self.folders), *others]
        found = {entry.key: entry for entry in entries}
        kept = {entry.key: entry for entry in kept_entries(self.folder, found) if entry.key not in found}
        # Replaced as a whole and never changed, so that other threads see the old or the new one.
        self._entries = _beside_their_bases(found, kept)

    def loras(self) -> list[LoraEntry]:
        """The LoRAs of the models folders as they are now, the unusable ones with their problem."""
        return scan_loras(self.folders)

    def embeddings(self) -> list[EmbeddingEntry]:
        """The textual-inversion embeddings of the models folders as they are now."""
        return scan_embeddings(self.folders)

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
        """Keys and entries of one moment, also while the folder is looked into again."""
        return self._entries.items()

    def values(self) -> ValuesView[CatalogEntry]:
        """Entries of one moment."""
        return self._entries.values()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

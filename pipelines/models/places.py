"""Where a catalog entry's files are: shipped, in the models folder, in the hub's cache, or to be fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import ModelError, ModelFileError, ModelMissingError
from pipelines.models.catalog import Catalog, shown
from pipelines.models.catalog_folder import TINY_VAE
from pipelines.models.downloads import (
    Hub,
    HuggingFace,
    Progress,
    fetch_configs,
    fetch_model,
    fetch_source,
    missing_sentence,
)
from pipelines.models.entry import CatalogEntry, Source
from pipelines.models.files import PartFiles, list_parts, part_files, read_index
from pipelines.weights.files import bytes_as, read_header
from pipelines.weights.kinds import file_kind

__all__ = ["ModelPlaces"]

CONFIG_OF = {
    "sd1": "sd15",
    "sd2": "sd21",
    "sdxl": "sdxl",
    "sd35-medium": "sd35-medium",
    "sd35-large": "sd35-large",
    "flux1-dev": "flux1-dev",
    "flux1-schnell": "flux1-schnell",
}
"""Which published model's configurations and tokenizers a checkpoint file needs: `FileKind.base` to catalog key."""


class ModelPlaces:
    """Finds the files of catalog entries, and fetches the published ones.

    Args:
        catalog: of the models; its folder is where a person puts them.
        hub: the outside world; None is the Hugging Face hub.
    """

    def __init__(self, catalog: Catalog, hub: Hub | None = None):
        self.catalog, self.hub = catalog, hub or HuggingFace()

    def parts(
        self, entry: CatalogEntry, variants: Sequence[str], cancelled: Callable[[], bool], progress: Progress | None
    ) -> tuple[Path, dict[str, PartFiles | None], dict[str, Any]]:
        """An entry's folder, its parts by name (None where it has none), and its pipeline's other settings.

        Args:
            entry: a folder on this machine or a published model.
            variants: of the weights, the most wanted first.
            cancelled: polled between files, and while one arrives.
            progress: told the bytes that arrive.

        Raises:
            ModelFileError: a file is broken or missing.
            ModelMissingError: a published model is not here and cannot be fetched.
            Cancelled: the person stopped it.
        """
        if entry.path is not None:
            return self._complete(entry, entry.path, variants, None)

        def fetch(source: Source) -> Path:
            return self.source(entry, source, cancelled, progress)

        own = self.catalog.folder / entry.repository.split("/")[-1]
        if (own / "model_index.json").is_file():
            return self._complete(entry, own, variants, fetch)
        cached = self.hub.folder(entry.repository, entry.revision)
        lacks = []
        if cached is not None:
            try:
                return self._complete(entry, cached, variants, lambda source: self._cached_source(entry, source))
            except ModelError as error:
                lacks.append(str(error))
        try:
            folder = fetch_model(self.hub, entry, self.catalog.folder, cancelled, progress)
        except ModelMissingError as error:
            more = f" What is here is not complete: {lacks[0]}" if lacks else ""
            raise ModelMissingError(f"{error}{more}") from error
        return self._complete(entry, folder, variants, fetch)

    def _complete(
        self, entry: CatalogEntry, folder: Path, variants: Sequence[str], fetch: Callable[[Source], Path] | None
    ) -> tuple[Path, dict[str, PartFiles | None], dict[str, Any]]:
        made, settings = read_index(folder)
        replaced = (
            {
                name: _replacement(name, source, made, folder, fetch(source), variants)
                for name, source in entry.parts.items()
            }
            if fetch
            else {}
        )
        return folder, list_parts(folder, replaced, variants), settings

    def source(
        self,
        entry: CatalogEntry,
        source: Source,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Progress | None = None,
    ) -> Path:
        """The file or folder of a part from a repository of its own, fetched where it is not here.

        Raises:
            ModelMissingError: it is not here and cannot be fetched.
            Cancelled: the person stopped it.
        """
        try:
            return self._cached_source(entry, source)
        except ModelError:
            return fetch_source(self.hub, entry, source, self.catalog.folder, cancelled, progress)

    def _cached_source(self, entry: CatalogEntry, source: Source) -> Path:
        own = self.catalog.folder / source.repository.split("/")[-1]
        for folder in (own, self.hub.folder(source.repository, source.revision)):
            found = folder and (folder / source.file if source.file else folder / source.subfolder)
            if found and (found.is_file() if source.file else any(found.glob("*.json"))):
                return found
        raise ModelMissingError(missing_sentence(entry, self.catalog.folder, [f"{source.repository}/{source.file}"]))

    def config_folder(self, entry: CatalogEntry, cancelled: Callable[[], bool], progress: Progress | None) -> Path:
        """The configurations and tokenizers that a checkpoint file needs beside itself; a few megabytes.

        Raises:
            ModelFileError: the file is broken or not a checkpoint that is known here.
            ModelMissingError: they are not here and cannot be fetched.
        """
        kind = file_kind(read_header(entry.path))
        donor = self.catalog.get(CONFIG_OF.get(kind.base, ""))
        if donor is None:
            raise ModelFileError(
                f"{entry.path.name} is no checkpoint of a kind known here. Use the model's diffusers folder."
            )
        own = self.catalog.folder / donor.repository.split("/")[-1]
        for folder in (own, self.hub.folder(donor.repository, donor.revision)):
            if folder and _has_configs(folder):
                return folder
        try:
            return fetch_configs(self.hub, donor, self.catalog.folder, cancelled, progress)
        except ModelMissingError as error:
            raise ModelMissingError(
                f"{entry.label} is a single file, which needs the configurations and tokenizers of {donor.label} "
                f"(a few MB), and the hub cannot be reached. Put the folder of {donor.repository} into {shown(own)}, "
                "or connect once."
            ) from error

    def tiny_places(self, entry: CatalogEntry, folder: Path) -> list[Path]:
        """Where a tiny decoder for an entry's previews may stand, the model's own first.

        That of a family is for published models and checkpoint files only: a folder's latents may be any.

        Args:
            entry: of the catalog.
            folder: with its parts.
        """
        if entry.family == "stock":
            return []
        single = entry.path is not None and not entry.path.is_dir()
        own = [] if single else [folder / TINY_VAE]
        return [*own, self.catalog.folder / TINY_VAE / entry.family] if single or not entry.local else own

    def tiny_vae(self, entry: CatalogEntry, folder: Path, variants: Sequence[str]) -> PartFiles | None:
        """The tiny decoder that a person put there, if any.

        Raises:
            ModelFileError: it is not complete, or holds only pickles.
        """
        found = next((place for place in self.tiny_places(entry, folder) if place.is_dir()), None)
        return found and part_files(TINY_VAE, "diffusers", "AutoencoderTiny", found, variants)

    def checkpoint_bytes(self, entry: CatalogEntry, dtype: str) -> int:
        """Memory of a checkpoint file's tensors as `dtype`, with 2 % for buffers that are in no file."""
        return int(1.02 * bytes_as(read_header(entry.path).values(), dtype))


def _has_configs(folder: Path) -> bool:
    try:
        parts, _ = read_index(folder)
    except ModelFileError:
        return False
    return all((folder / name).is_dir() and any((folder / name).glob("*.json")) for name, made in parts.items() if made)


def _replacement(
    name: str, source: Source, made: dict, folder: Path, found: Path, variants: Sequence[str]
) -> PartFiles:
    library, _, class_name = source.part_class.rpartition(".")
    if not class_name:
        if not made.get(name):
            raise ModelFileError(f"{folder.name} has no '{name}' that {source.repository} could replace.")
        library, class_name = made[name]
    if source.file:
        return PartFiles(name, library, class_name, folder / name, (found,), single=True)
    return part_files(name, library, class_name, found, variants)

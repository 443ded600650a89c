"""Where a catalog entry's files are: shipped, in the models folder, in the hub's cache, or to be fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import ModelError, ModelFileError, ModelMissingError
from pipelines.models.catalog import Catalog, shorten_path
from pipelines.models.catalog_folder import TINY_VAE
from pipelines.models.donors import DONORS, OPTIONAL, Donors
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
from pipelines.models.files import LIGHT, PartFiles, list_parts, part_files, part_folder, read_index
from pipelines.models.shipped_configurations import find_shipped_configuration

__all__ = ["ModelPlaces"]


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
        """Return an entry's folder, its parts by name (None where it has none), and its pipeline's other settings.

        Args:
            entry: a folder on this machine or a published model.
            variants: of the weights, the most wanted first.
            cancelled: polled between files, and while one arrives.
            progress: called with the bytes that arrive.

        Raises:
            ModelFileError: a file is broken or missing.
            ModelMissingError: a published model is not here and cannot be fetched.
            Cancelled: the person stopped it.
        """
        if entry.path is not None:
            return self._list_complete(entry, entry.path, variants, None)

        def fetch(source: Source) -> Path:
            return self.source(entry, source, cancelled, progress)

        folder_here = self.catalog.folder / entry.repository.split("/")[-1]
        if (folder_here / "model_index.json").is_file():
            return self._list_complete(entry, folder_here, variants, fetch)
        cached = self.hub.folder(entry.repository, entry.revision)
        lacks = []
        if cached is not None:
            try:
                return self._list_complete(
                    entry, cached, variants, lambda source: self._find_cached_source(entry, source)
                )
            except ModelError as error:
                lacks.append(str(error))
        try:
            folder = fetch_model(self.hub, entry, self.catalog.folder, cancelled, progress)
        except ModelMissingError as error:
            more = f" What is here is not complete: {lacks[0]}" if lacks else ""
            raise ModelMissingError(f"{error}{more}") from error
        return self._list_complete(entry, folder, variants, fetch)

    def _list_complete(
        self, entry: CatalogEntry, folder: Path, variants: Sequence[str], fetch: Callable[[Source], Path] | None
    ) -> tuple[Path, dict[str, PartFiles | None], dict[str, Any]]:
        classes, settings = read_index(folder)
        replaced = (
            {
                name: _build_replacement(name, source, classes, folder, fetch(source), variants)
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
        """Return the file or folder of a part from a repository of its own, fetched where it is not here.

        Raises:
            ModelMissingError: it is not here and cannot be fetched.
            Cancelled: the person stopped it.
        """
        try:
            return self._find_cached_source(entry, source)
        except ModelError:
            return fetch_source(self.hub, entry, source, self.catalog.folder, cancelled, progress)

    def _find_cached_source(self, entry: CatalogEntry, source: Source) -> Path:
        folder_here = self.catalog.folder / source.repository.split("/")[-1]
        for folder in (folder_here, self.hub.folder(source.repository, source.revision)):
            place = folder and (folder / source.file if source.file else folder / source.subfolder)
            if place and (place.is_file() if source.file else any(place.glob("*.json"))):
                return place
        raise ModelMissingError(missing_sentence(entry, self.catalog.folder, [f"{source.repository}/{source.file}"]))

    def config_folder(self, entry: CatalogEntry, cancelled: Callable[[], bool], progress: Progress | None) -> Path:
        """Return the configurations and tokenizers that a checkpoint file needs beside itself.

        Those of a donor on this machine, else those that are shipped, else fetched ones: a few megabytes.

        Raises:
            ModelFileError: the file is broken or not a checkpoint that is known here.
            ModelMissingError: they are not here and cannot be fetched.
        """
        family, base = entry.family, entry.file.base if entry.file else ""
        donors = [self.catalog.get(key) for key in DONORS.get(base, ())]
        if not donors or donors[0] is None:
            name = entry.require_path().name
            raise ModelFileError(f"{name} is not a checkpoint of a kind known here. Use the model's diffusers folder.")
        folders = (one.folder for one in self._donors.folders_for(family, base))
        config = next((folder for folder in folders if folder and _has_configs(folder)), None)
        cached = [self.hub.folder(donor.repository, donor.revision) for donor in donors if donor] if not config else []
        config = config or next((folder for folder in cached if folder and _has_configs(folder)), None)
        config = config or find_shipped_configuration(base)
        if config:
            return config
        donor, folder_here = donors[0], self.catalog.folder / donors[0].repository.split("/")[-1]
        try:
            return fetch_configs(self.hub, donor, self.catalog.folder, cancelled, progress)
        except ModelMissingError as error:
            raise ModelMissingError(
                f"{entry.label} is a single file, which needs the configurations and tokenizers of {donor.label} "
                f"(a few MB), and the hub cannot be reached. Put the folder of {donor.repository} into "
                f"{shorten_path(folder_here)}, or connect once."
            ) from error

    @property
    def _donors(self) -> Donors:
        return Donors(self.catalog.values(), self.catalog.folders)

    def checkpoint_parts(
        self, entry: CatalogEntry, config: Path, variants: Sequence[str]
    ) -> dict[str, PartFiles | None]:
        """Return all parts of a single file's model: those that it holds, those that it lacks, from its donors, and
        what its configurations give; None for a part without which it works.

        Args:
            entry: of the single file.
            config: folder with the configurations.
            variants: of the weights, the most wanted first.

        Raises:
            ModelFileError: nobody has a part.
        """
        classes, _ = read_index(config)
        file = entry.require_file()
        parts: dict[str, PartFiles | None] = {}
        for name, made in classes.items():
            if made is None:
                parts[name] = None
                continue
            if name not in file.lacks:
                is_light = any(word in made[1] for word in LIGHT)
                held = () if is_light else (entry.require_path(),)
                parts[name] = PartFiles(name, *made, part_folder(config, name), held, within=not is_light)
                continue
            donor = self._donors.part(entry.family, file.base, name)
            if donor is None and name in OPTIONAL.get(file.base, ()):
                parts[name] = None
            elif donor is not None and donor.file:
                parts[name] = PartFiles(name, *made, config / name, (donor.file,), single=True)
            elif donor is not None and donor.folder and (theirs := read_index(donor.folder)[0][name]):
                parts[name] = part_files(name, *theirs, donor.folder / name, variants)
            else:
                path = entry.require_path()
                raise ModelFileError(f"{path.name} has no {name} in it, and no donor of it is here any more.")
        return parts

    def tiny_places(self, entry: CatalogEntry, folder: Path) -> list[Path]:
        """Find where a tiny decoder for an entry's previews may stand, the model's own first.

        That of a family is for published models and checkpoint files only: a folder's latents may be any.

        Args:
            entry: of the catalog.
            folder: with its parts.
        """
        if entry.family == "stock":
            return []
        single = entry.path is not None and not entry.path.is_dir()
        beside_parts = [] if single else [part_folder(folder, TINY_VAE)]
        return (
            [*beside_parts, self.catalog.folder / TINY_VAE / entry.family]
            if single or not entry.local
            else beside_parts
        )

    def tiny_vae(self, entry: CatalogEntry, folder: Path, variants: Sequence[str]) -> PartFiles | None:
        """Return the tiny decoder that a person put there, if any.

        Raises:
            ModelFileError: it is not complete, or holds only pickles.
        """
        tiny_folder = next((place for place in self.tiny_places(entry, folder) if place.is_dir()), None)
        if tiny_folder is None:
            return None
        return part_files(TINY_VAE, "diffusers", "AutoencoderTiny", tiny_folder, variants)


def _has_configs(folder: Path) -> bool:
    try:
        parts, _ = read_index(folder)
    except ModelFileError:
        return False
    return all((folder / name).is_dir() and any((folder / name).glob("*.json")) for name, made in parts.items() if made)


def _build_replacement(
    name: str, source: Source, classes: dict, folder: Path, place: Path, variants: Sequence[str]
) -> PartFiles:
    library, _, class_name = source.part_class.rpartition(".")
    if not class_name:
        if not classes.get(name):
            raise ModelFileError(f"{folder.name} has no '{name}' that {source.repository} could replace.")
        library, class_name = classes[name]
    if source.file:
        return PartFiles(name, library, class_name, folder / name, (place,), single=True)
    return part_files(name, library, class_name, place, variants)

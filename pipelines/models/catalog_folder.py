"""What a person put into the models folder: diffusers folders, checkpoint files and LoRAs."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from pipelines.core.errors import ModelFileError
from pipelines.models.entry import CatalogEntry
from pipelines.models.folder_entries import build_entries, find_shard_set, make_key, make_printable, measure_size
from pipelines.models.folder_problems import PLACES, explain_suffix
from pipelines.models.folder_walk import EMBEDDINGS, LORAS, UPSCALERS, FolderFile, Kinds, ModelFolders

__all__ = [
    "TINY_VAE",
    "EmbeddingEntry",
    "LoraEntry",
    "UpscalerEntry",
    "has_spandrel",
    "scan",
    "scan_embeddings",
    "scan_loras",
    "scan_upscalers",
]

TINY_VAE = "tiny_vae"
"""Tiny decoders for previews, by family: left to pipelines.models.places. Among a model's parts it is called so too."""


@dataclasses.dataclass(frozen=True)
class LoraEntry:
    """Describes a LoRA of the models folder.

    Attributes:
        key: its name in requests.
        label: its file's name without the suffix.
        path: the file.
        family: "sd", "sdxl", "sd3", "flux", or "" when its tensors do not tell.
        base: "sd1", "sd2", "sdxl", "sd3", "flux1" or "", as `weight_kinds.FileKind` has it.
        size_bytes: of the file.
        problem: why it cannot be used, as a sentence; "" if it can.
    """

    key: str
    label: str
    path: Path
    family: str = ""
    base: str = ""
    size_bytes: int = 0
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class EmbeddingEntry:
    """Describes a textual-inversion embedding of the models folder.

    Attributes:
        key: its name in prompts, the file's name without the suffix.
        path: the file.
        family, base: as `weights.kinds.FileKind` has them; "" when its tensors do not tell.
        size_bytes: of the file.
        problem: why it cannot be used, as a sentence; "" if it can.
    """

    key: str
    path: Path
    family: str = ""
    base: str = ""
    size_bytes: int = 0
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class UpscalerEntry:
    """Describes an upscaler of the models folder.

    Attributes:
        key: its name in requests.
        path: the file.
        size_bytes: of the file.
        problem: why it cannot be used, as a sentence; "" if it can.
    """

    key: str
    path: Path
    size_bytes: int = 0
    problem: str = ""


def scan(folder: Path | ModelFolders, used_keys: Iterable[str] = ()) -> list[CatalogEntry]:
    """List models in a folder, by name; a file that cannot be used is listed with its problem.

    Args:
        folder: the models folder, or several; one that does not exist holds nothing.
        used_keys: keys that are in use already.

    Returns:
        Entries with keys of lower-case letters, digits, ".", "_" and "-". A file of which nothing tells whether it
        predicts noise or v stands there twice, once for each.
    """
    folders, keys, entries = _open_folders(folder), set(used_keys), []
    shards: set[Path] = set()
    for file in folders.files():
        if file.role or (set_name := find_shard_set(file.path)) in shards:
            continue
        if set_name is not None:
            shards.add(set_name)
        for entry in build_entries(file, folders.kinds):
            entries.append(dataclasses.replace(entry, key=_make_unique(entry.key or make_key(entry.label), keys)))
    return entries


def scan_loras(folder: Path | ModelFolders) -> list[LoraEntry]:
    """List LoRAs in folders named `loras`, `Lora` and the like, by name, the unusable ones with their problem."""
    folders, keys, entries = _open_folders(folder), set[str](), []
    for file in _list_files(folders, LORAS):
        key, label = _make_unique(make_key(file.path.stem), keys), make_printable(file.path.stem)
        family, base, problem = _check_kind(file, folders.kinds, "lora", "LoRA")
        entries.append(LoraEntry(key, label, file.path, family, base, measure_size(file.path), problem))
    return entries


def scan_embeddings(folder: Path | ModelFolders) -> list[EmbeddingEntry]:
    """List textual-inversion embeddings in folders named `embeddings`, by name, unusable ones with their problem."""
    folders, keys, entries = _open_folders(folder), set[str](), []
    for file in _list_files(folders, EMBEDDINGS):
        name = re.sub(r"[\s,:()\[\]|<>]+", "_", make_printable(file.path.stem))
        family, base, problem = _check_kind(file, folders.kinds, "embedding", "embedding")
        entries.append(
            EmbeddingEntry(_make_unique(name, keys), file.path, family, base, measure_size(file.path), problem)
        )
    return entries


def scan_upscalers(folder: Path | ModelFolders) -> list[UpscalerEntry]:
    """List upscalers in folders named `upscalers`, `ESRGAN` and the like, by name, unusable ones with their problem."""
    folders, keys, entries = _open_folders(folder), set[str](), []
    for file in _list_files(folders, UPSCALERS):
        key = _make_unique(make_key(file.path.stem), keys)
        problem = _check_upscaler(file, folders.kinds)
        entries.append(UpscalerEntry(key, file.path, measure_size(file.path), problem))
    return entries


def has_spandrel() -> bool:
    """Whether the package that reads other layouts than the compact one is installed."""
    return importlib.util.find_spec("spandrel") is not None


def _check_upscaler(file: FolderFile, kinds: Kinds) -> str:
    """Why an upscaler cannot be used; a layout that is not known here may be one that spandrel knows."""
    problem = _check_kind(file, kinds, "upscaler", "upscaler")[2]
    try:
        unknown = not file.problem and not explain_suffix(file.path) and kinds.kind(file.path).what == "unknown"
    except ModelFileError:
        return problem
    if not unknown:
        return problem
    if has_spandrel():
        return ""
    return f"{file.path.name} is of a layout that needs spandrel. Install it: pip install -r requirements-upscalers.txt"


def _list_files(folders: ModelFolders, role: str) -> list[FolderFile]:
    """List the files of the folders of one role, and the folders in them that cannot be used."""
    return [file for file in folders.files() if file.role == role and (file.problem or not file.path.is_dir())]


def _open_folders(folder: Path | ModelFolders) -> ModelFolders:
    return folder if isinstance(folder, ModelFolders) else ModelFolders(folder)


def _check_kind(file: FolderFile, kinds: Kinds, expected: str, noun: str) -> tuple[str, str, str]:
    """(family, base, problem) of a file in a folder that is for one kind of files."""
    problem = file.problem or explain_suffix(file.path)
    if problem:
        return "", "", problem
    try:
        kind = kinds.kind(file.path)
    except ModelFileError as error:
        return "", "", str(error)
    if kind.what != expected:
        place = PLACES.get(kind.what)
        move = f" It is {place[0]}: move it into the folder '{place[1]}'." if place else f" {kind.note}".rstrip()
        return "", "", f"{file.path.name} is no {noun}.{move}"
    return kind.family, kind.base, f"{file.path.name} cannot be used here. {kind.note}" if kind.note else ""


def _make_unique(key: str, keys: set[str]) -> str:
    number, candidate = 1, key
    while candidate in keys:
        number += 1
        candidate = f"{key}-{number}"
    keys.add(candidate)
    return candidate

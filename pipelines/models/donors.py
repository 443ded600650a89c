"""Where a single file finds what it does not hold: configurations, tokenizers, a VAE, text encoders."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.core.errors import ModelFileError
from pipelines.models.entry import CatalogEntry, shorten_path
from pipelines.models.files import part_files, read_index
from pipelines.models.folder_walk import ModelFolders
from pipelines.weights.files import SAFETENSORS_SUFFIXES
from pipelines.weights.gguf_files import has_gguf
from pipelines.weights.kinds import FileKind
from pipelines.weights.network_kinds import CONTEXT_WIDTHS

__all__ = ["DONORS", "OPTIONAL", "Donor", "Donors", "complete_entries"]

DONORS = {
    "sd1": ("sd15",),
    "sd2": ("sd21",),
    "sdxl": ("sdxl",),
    "sd3": ("sd35-medium", "sd35-large"),
    "sd35-medium": ("sd35-medium", "sd35-large"),
    "sd35-large": ("sd35-large", "sd35-medium"),
    "flux1-dev": ("flux1-dev",),
    "flux1-schnell": ("flux1-schnell",),
}
"""Whose configurations, tokenizers and parts a single file may take: `FileKind.base` to keys of published models."""

OPTIONAL = {"sd3": ("text_encoder_3",), "sd35-medium": ("text_encoder_3",), "sd35-large": ("text_encoder_3",)}
"""Parts without which a model works too: SD3 was trained with its T5 left out at times."""

ENCODER_FILES = {
    ("sd1", "text_encoder"): "clip_l",
    ("sd2", "text_encoder"): "open_clip_h",
    ("sdxl", "text_encoder"): "clip_l",
    ("sdxl", "text_encoder_2"): "clip_g",
    ("sd3", "text_encoder"): "clip_l",
    ("sd3", "text_encoder_2"): "clip_g",
    ("sd3", "text_encoder_3"): "t5xxl",
    ("flux", "text_encoder"): "clip_l",
    ("flux", "text_encoder_2"): "t5xxl",
}
"""Which text-encoder file, as ComfyUI splits models, is which part; by base, or by family where all bases agree."""

VAE_NAMES = {
    "sdxl": re.compile(r"xl", re.IGNORECASE),
    "flux": re.compile(r"^ae$|flux", re.IGNORECASE),
    "sd3": re.compile(r"sd[-_.]?3|3\.5|stable-diffusion-3", re.IGNORECASE),
}
VAE_CHANNELS = {"sd": 4, "sdxl": 4, "sd3": 16, "flux": 16}
"""VAEs of SD 1 and SDXL, and those of SD3 and FLUX.1, have the same shapes: their files' names tell them apart."""

WORDS = {
    "vae": "VAE",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "text_encoder_3": "third text encoder (T5)",
}


@dataclasses.dataclass(frozen=True)
class Donor:
    """Says who gives a part.

    Attributes:
        label: its name on the screen.
        folder: the diffusers folder whose part it is; None for a file by itself.
        file: the file by itself.
    """

    label: str
    folder: Path | None = None
    file: Path | None = None


class Donors:
    """Says what the models folders have to complete single files with.

    Args:
        entries: of the catalog, published ones and local ones.
        folders: the models folders.
    """

    def __init__(self, entries: Iterable[CatalogEntry], folders: ModelFolders):
        self._entries = {entry.key: entry for entry in entries}
        self._folders = folders

    def folders_for(self, family: str, base: str) -> Iterator[Donor]:
        """Yield diffusers folders of a kind of model, the published donors' own first."""
        published = [self._entries[key] for key in DONORS.get(base, ()) if key in self._entries]
        for entry in published:
            for place in self._list_places(entry):
                if (place / "model_index.json").is_file():
                    yield Donor(entry.label, place)
        for entry in self._entries.values():
            # One that lacks its weights still gives its configurations and tokenizers.
            path = entry.path
            if path is None or not path.is_dir() or entry.family != family or entry.quantized:
                continue
            if _has_base(path, base):
                yield Donor(entry.label, path)

    def _list_places(self, entry: CatalogEntry) -> Iterator[Path]:
        for folder in self._folders.all:
            yield folder / entry.repository.split("/")[-1]
        snapshots = _find_hub_cache() / f"models--{entry.repository.replace('/', '--')}" / "snapshots"
        if snapshots.is_dir():
            yield from sorted(snapshots.iterdir())

    def part(self, family: str, base: str, name: str) -> Donor | None:
        """Find who has the weights of a part; None where nobody has."""
        for donor in self.folders_for(family, base):
            if donor.folder and _has_part(donor.folder, name):
                return donor
        file = next(self._list_files(family, base, name), None)
        return Donor(file.name, file=file) if file else None

    @functools.cached_property
    def _parts_by_themselves(self) -> list[tuple[Path, FileKind]]:
        """The files that hold one part of a model; looked for once, however many models lack one."""
        listed = []
        suffixes = SAFETENSORS_SUFFIXES | ({".gguf"} if has_gguf() else set())
        for file in self._folders.files():
            if file.problem or file.role or file.path.suffix.lower() not in suffixes:
                continue
            with contextlib.suppress(ModelFileError):
                kind = self._folders.kinds.kind(file.path)
                if kind.what in {"vae", "text_encoder"}:
                    listed.append((file.path, kind))
        return listed

    def _list_files(self, family: str, base: str, name: str) -> Iterator[Path]:
        encoder = ENCODER_FILES.get((base, name)) or ENCODER_FILES.get((family, name))
        for path, kind in self._parts_by_themselves:
            if name == "vae" and kind.what == "vae" and _is_vae_of(path, kind.base, family):
                yield path
            if name != "vae" and kind.what == "text_encoder" and kind.base == encoder:
                yield path


def _find_hub_cache() -> Path:
    """Where huggingface_hub keeps downloads, without importing it: listing models imports no library."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _has_part(folder: Path, name: str) -> bool:
    """Whether a part of a folder has all its files."""
    try:
        made = read_index(folder)[0].get(name)
        return made is not None and bool(part_files(name, *made, folder / name, ("", "fp16")).weights)
    except ModelFileError:
        return False


def _has_base(folder: Path, base: str) -> bool:
    """Whether a folder of the family is of this version too, by the width of the text that its network reads."""
    if base not in {"sd1", "sd2", "sdxl"}:
        return (base in DONORS and not base.startswith("flux")) or _read_flux_base(folder) == base
    width = _read_config(folder / "unet").get("cross_attention_dim")
    return isinstance(width, int) and CONTEXT_WIDTHS.get(width, ("", ""))[1] == base


def _read_flux_base(folder: Path) -> str:
    return "flux1-dev" if _read_config(folder / "transformer").get("guidance_embeds") else "flux1-schnell"


def _read_config(folder: Path) -> Mapping:
    try:
        plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}


def _is_vae_of(path: Path, channels: str, family: str) -> bool:
    families = [one for one, pattern in VAE_NAMES.items() if pattern.search(path.stem)]
    fits = channels == str(VAE_CHANNELS[family])
    return fits and (family in families if family in VAE_NAMES else not families)


def complete_entries(
    entries: Sequence[CatalogEntry], published: Iterable[CatalogEntry], folders: ModelFolders
) -> list[CatalogEntry]:
    """Return entries of single files with who completes them, or with the problem that nobody does.

    Args:
        entries: what `catalog_folder.scan` gives.
        published: the models that may give parts.
        folders: the models folders.
    """
    published = list(published)
    donors = Donors([*published, *entries], folders)
    return [
        _complete_entry(entry, donors, {one.key: one for one in published}, folders)
        if entry.file is not None and not entry.problem
        else entry
        for entry in entries
    ]


def _complete_entry(
    entry: CatalogEntry, donors: Donors, published: Mapping[str, CatalogEntry], folders: ModelFolders
) -> CatalogEntry:
    parts_by_donor: dict[str, list[str]] = {}
    missing = []
    file = entry.require_file()
    for name in file.lacks:
        donor = donors.part(entry.family, file.base, name)
        if donor is not None:
            parts_by_donor.setdefault(donor.label, []).append(WORDS[name])
        elif name not in OPTIONAL.get(file.base, ()):
            missing.append(name)
    if missing:
        return dataclasses.replace(entry, problem=_explain_missing(entry, missing, published, folders))
    notes = [
        f"Its {' and '.join(parts)} {'are' if len(parts) > 1 else 'is'} that of {label}."
        for label, parts in parts_by_donor.items()
    ]
    return dataclasses.replace(entry, notes=" ".join(filter(None, [entry.notes, *notes])))


def _explain_missing(
    entry: CatalogEntry, missing: Sequence[str], published: Mapping[str, CatalogEntry], folders: ModelFolders
) -> str:
    words = " and no ".join(WORDS[name] for name in missing)
    base = entry.require_file().base
    kinds = [ENCODER_FILES.get((base, name)) or ENCODER_FILES.get((entry.family, name)) for name in missing]
    files = " and ".join(kind or "vae" for kind in kinds)
    donor = next((published[key] for key in DONORS.get(base, ()) if key in published), None)
    target = shorten_path(folders.first / donor.repository.split("/")[-1]) if donor else ""
    remedy = (
        f"Download {donor.label} under Models, or put its folder into {target}: it gives what is missing"
        if donor
        else "Add them"
    )
    name = entry.require_path().name
    return f"{name} has no {words} in it. {remedy}; or put files of its own ({files}) into the models folder."

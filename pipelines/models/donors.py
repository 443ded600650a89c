"""Where a single file finds what it does not hold: configurations, tokenizers, a VAE, text encoders."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.core.errors import ModelFileError
from pipelines.models.entry import CatalogEntry, shown
from pipelines.models.files import WEIGHTS
from pipelines.models.folder_walk import ModelFolders
from pipelines.weights.files import SAFETENSORS_SUFFIXES
from pipelines.weights.kinds import CONTEXT_WIDTHS

__all__ = ["DONORS", "OPTIONAL", "Donor", "Donors", "completed"]

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
    """Who gives a part.

    Attributes:
        label: its name on the screen.
        folder: the diffusers folder whose part it is; None for a file by itself.
        file: the file by itself.
    """

    label: str
    folder: Path | None = None
    file: Path | None = None


class Donors:
    """What the models folders have to complete single files with.

    Args:
        entries: of the catalog, published ones and local ones.
        folders: the models folders.
    """

    def __init__(self, entries: Iterable[CatalogEntry], folders: ModelFolders):
        self._entries = {entry.key: entry for entry in entries}
        self._folders = folders

    def folders_for(self, family: str, base: str) -> Iterator[Donor]:
        """Diffusers folders of a kind of model, the published donors' own first."""
        published = [self._entries[key] for key in DONORS.get(base, ()) if key in self._entries]
        for entry in published:
            for place in self._places(entry):
                if (place / "model_index.json").is_file():
                    yield Donor(entry.label, place)
        for entry in self._entries.values():
            local = entry.path is not None and entry.path.is_dir() and entry.family == family and not entry.problem
            if local and not entry.quantized and _has_base(entry.path, base):
                yield Donor(entry.label, entry.path)

    def _places(self, entry: CatalogEntry) -> Iterator[Path]:
        for folder in self._folders.all:
            yield folder / entry.repository.split("/")[-1]
        snapshots = _hub_cache() / f"models--{entry.repository.replace('/', '--')}" / "snapshots"
        if snapshots.is_dir():
            yield from sorted(snapshots.iterdir())

    def part(self, family: str, base: str, name: str) -> Donor | None:
        """Who has the weights of a part; None where nobody has."""
        for donor in self.folders_for(family, base):
            if donor.folder and any(WEIGHTS.match(path.name) for path in (donor.folder / name).glob("*.safetensors")):
                return donor
        file = next(self._files(family, base, name), None)
        return file and Donor(file.name, file=file)

    def _files(self, family: str, base: str, name: str) -> Iterator[Path]:
        encoder = ENCODER_FILES.get((base, name)) or ENCODER_FILES.get((family, name))
        for found in self._folders.files():
            path = found.path
            if found.problem or found.role or path.suffix.lower() not in SAFETENSORS_SUFFIXES:
                continue
            try:
                kind = self._folders.kinds.kind(path)
            except ModelFileError:
                continue
            if name == "vae" and kind.what == "vae" and _is_vae_of(path, kind.base, family):
                yield path
            if name != "vae" and kind.what == "text_encoder" and kind.base == encoder:
                yield path


def _hub_cache() -> Path:
    """Where huggingface_hub keeps downloads, without importing it: listing models imports no library."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _has_base(folder: Path, base: str) -> bool:
    """Whether a folder of the family is of this version too, told by the width of the text that its network reads."""
    if base not in {"sd1", "sd2", "sdxl"}:
        return (base in DONORS and not base.startswith("flux")) or _flux_base(folder) == base
    return CONTEXT_WIDTHS.get(_config(folder / "unet").get("cross_attention_dim"), ("", ""))[1] == base


def _flux_base(folder: Path) -> str:
    return "flux1-dev" if _config(folder / "transformer").get("guidance_embeds") else "flux1-schnell"


def _config(folder: Path) -> Mapping:
    try:
        plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}


def _is_vae_of(path: Path, channels: str, family: str) -> bool:
    named = [one for one, pattern in VAE_NAMES.items() if pattern.search(path.stem)]
    fits = channels == str(VAE_CHANNELS[family])
    return fits and (family in named if family in VAE_NAMES else not named)


def completed(
    found: Sequence[CatalogEntry], published: Iterable[CatalogEntry], folders: ModelFolders
) -> list[CatalogEntry]:
    """Entries of single files with who completes them, or with the problem that nobody does.

    Args:
        found: what `catalog_folder.scan` gives.
        published: the models that may give parts.
        folders: the models folders.
    """
    published = list(published)
    donors = Donors([*published, *found], folders)
    return [
        _completed(entry, donors, {one.key: one for one in published}, folders)
        if entry.file is not None and not entry.problem
        else entry
        for entry in found
    ]


def _completed(
    entry: CatalogEntry, donors: Donors, published: Mapping[str, CatalogEntry], folders: ModelFolders
) -> CatalogEntry:
    given: dict[str, list[str]] = {}
    missing = []
    for name in entry.file.lacks:
        donor = donors.part(entry.family, entry.file.base, name)
        if donor is not None:
            given.setdefault(donor.label, []).append(WORDS[name])
        elif name not in OPTIONAL.get(entry.file.base, ()):
            missing.append(name)
    if missing:
        return dataclasses.replace(entry, problem=_lacking(entry, missing, published, folders))
    taken = [
        f"Its {' and '.join(parts)} {'are' if len(parts) > 1 else 'is'} that of {label}."
        for label, parts in given.items()
    ]
    return dataclasses.replace(entry, notes=" ".join(filter(None, [entry.notes, *taken])))


def _lacking(
    entry: CatalogEntry, missing: Sequence[str], published: Mapping[str, CatalogEntry], folders: ModelFolders
) -> str:
    words = " and no ".join(WORDS[name] for name in missing)
    kinds = [ENCODER_FILES.get((entry.file.base, name)) or ENCODER_FILES.get((entry.family, name)) for name in missing]
    files = " and ".join(kind or "vae" for kind in kinds)
    donor = next((published[key] for key in DONORS.get(entry.file.base, ()) if key in published), None)
    own = shown(folders.first / donor.repository.split("/")[-1]) if donor else ""
    take = (
        f"Download {donor.label} under Models, or put its folder into {own}: it gives what is missing"
        if donor
        else "Add them"
    )
    return f"{entry.path.name} has no {words} in it. {take}; or put files of its own ({files}) into the models folder."

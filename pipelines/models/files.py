"""A diffusers folder as files: which parts it has, which weights belong to each, and whether all are there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import ModelFileError
from pipelines.weights.files import PICKLE_SUFFIXES, Tensor, bytes_as, check_index
from pipelines.weights.gguf_files import is_packed_matrix, read_weights_header, stored_bytes
from pipelines.weights.kinds import NETWORKS, list_part_tensors

__all__ = [
    "LIGHT",
    "PartFiles",
    "list_parts",
    "needed_files",
    "part_files",
    "part_folder",
    "read_index",
    "read_json",
    "read_part_config",
    "takes_part_of",
    "weight_files",
    "weights_variant",
]

LIGHT = ("Tokenizer", "Scheduler", "Processor", "FeatureExtractor", "Feature")
"""Words in the class names of parts without weights."""

SKIPPED = frozenset({"safety_checker", "feature_extractor"})
"""Left out of models with a safety checker, whose place is None: the family's own loop has no use for it."""

STEMS = ("diffusion_pytorch_model", "model")
_WEIGHTS = re.compile(
    r"^(?:diffusion_pytorch_model|model)(?:\.(?P<new>[A-Za-z0-9_]+))?(?:-\d{5}-of-\d{5})?(?:\.(?P<old>[A-Za-z0-9_]+))?"
    r"\.safetensors$"
)
"""diffusers names the parts of a variant `model.fp16-00001-of-00002`, and before 0.28 `model-00001-of-00002.fp16`."""

SHARED = "shared_parts.json"
"""Beside a model_index.json: parts that stand in another model's folder, by name, e.g. {"vae": "emoji-128"}."""

_SIBLING = re.compile(r"\w[\w.-]*")

CONFIGS = (".json", ".txt", ".model", ".jinja")
VOCABULARIES = frozenset(
    {"tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"}
)
LIGHT_BYTES = 20_000_000
"""What a tokenizer is taken to need at most; it is no tensor memory, but not nothing."""


@dataclasses.dataclass(frozen=True)
class PartFiles:
    """Describes one part of a model on disk.

    Attributes:
        name: in the pipeline: "unet", "vae", ...
        library: "diffusers", "transformers", or the name of a diffusers pipeline's folder.
        class_name: of the part.
        folder: where its configuration is.
        weights: its safetensors files; empty for parts without weights.
        variant: of the weights, e.g. "fp16".
        single: whether `weights` is one bare state dict and not a folder in diffusers' form.
        within: whether `weights` is the file of a whole model, which holds other parts too.
    """

    name: str
    library: str
    class_name: str
    folder: Path
    weights: tuple[Path, ...] = ()
    variant: str = ""
    single: bool = False
    within: bool = False

    @property
    def light(self) -> bool:
        """Whether it has no weights: a tokenizer, a scheduler, an image processor."""
        return not self.weights

    def files(self) -> list[Path]:
        """List everything that decides what is loaded."""
        configs = [path for path in sorted(self.folder.iterdir()) if path.suffix in CONFIGS and path.is_file()]
        return [*configs, *self.weights]

    def estimate_bytes(self, dtype: str) -> int:
        """Estimate the memory when loaded as `dtype`, from the files' headers, with 2 % for buffers that are in no
        file.

        Raises:
            ModelFileError: a file is broken.
        """
        if self.light:
            return min(LIGHT_BYTES, 4 * sum(path.stat().st_size for path in self.files()))
        return int(1.02 * sum(self._count_bytes(tensor, dtype) for tensor in self.tensors())) + 4096

    def tensors(self) -> list[Tensor]:
        """List its tensors as the files' headers describe them.

        Raises:
            ModelFileError: a file is broken.
        """
        found = [read_weights_header(path).tensors for path in self.weights]
        return [
            tensor
            for tensors in found
            for tensor in (list_part_tensors(tensors, self.name) if self.within else tensors).values()
        ]

    def _count_bytes(self, tensor: Tensor, dtype: str) -> int:
        # The packed matrices of a GGUF file's denoising network stay packed.
        packed = self.name in NETWORKS and self.within and is_packed_matrix(tensor)
        return stored_bytes(tensor) if packed else bytes_as([tensor], dtype)


def weights_variant(name: str) -> str | None:
    """The variant of a weights file by its name, such as "fp16" or ""; None for any other file."""
    match = _WEIGHTS.match(name)
    return match and (match["new"] or match["old"] or "")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a model's folder.

    Raises:
        ModelFileError: it is missing or cannot be read.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict):
        raise ModelFileError(
            f"{path.parent.name}/{path.name} is missing or cannot be read. Copy or download the model again."
        )
    return plain


def read_index(folder: Path) -> tuple[dict[str, tuple[str, str] | None], dict[str, Any]]:
    """Read a model_index.json: parts as name to (library, class) or None where it has none, and the other settings.

    Raises:
        ModelFileError: it is missing, cannot be read, or names something that is no plain name.
    """
    parts: dict[str, tuple[str, str] | None] = {}
    settings: dict[str, Any] = {}
    for name, value in read_json(folder / "model_index.json").items():
        if name.startswith("_"):
            continue
        if not isinstance(value, list) or len(value) != 2:
            settings[name] = value
        elif value == [None, None]:
            parts[name] = None
        elif all(isinstance(word, str) for word in value) and name.isidentifier() and value[1].isidentifier():
            parts[name] = (value[0], value[1])
        else:
            raise ModelFileError(
                f"{folder.name}/model_index.json names {str(value)[:80]} as '{name[:40]}', "
                "which is not a class. Copy or download the model again."
            )
    if "safety_checker" in parts:
        parts |= dict.fromkeys(SKIPPED & parts.keys())
        settings["requires_safety_checker"] = False
    return parts, settings


def part_folder(folder: Path, name: str) -> Path:
    """Find where a part of a model stands: in its folder, or in the one beside it that its shared_parts.json names.

    Args:
        folder: of the model.
        name: of the part, e.g. "vae".

    Raises:
        ModelFileError: shared_parts.json cannot be read, or names something that is no folder's plain name.
    """
    if (folder / name).is_dir() or not (folder / SHARED).is_file():
        return folder / name
    sibling = read_json(folder / SHARED).get(name)
    if sibling is None:
        return folder / name
    if not isinstance(sibling, str) or not _SIBLING.fullmatch(sibling):
        raise ModelFileError(
            f"{folder.name}/{SHARED} has {str(sibling)[:80]!r} for '{name}'. Write the name of a folder beside it."
        )
    return folder.parent / sibling / name


def takes_part_of(folder: Path, name: str, other: Path) -> bool:
    """Say whether a model takes a part from another model's folder.

    Args:
        folder: of the model.
        name: of the part, e.g. "unet".
        other: the other model's folder.
    """
    try:
        place = part_folder(folder, name)
    except ModelFileError:  # reported where it is loaded
        return False
    return folder != other and place == other / name


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a model's folder, and those of the parts that it takes from others."""
    places = [path for path in folder.iterdir() if path.is_dir()]
    with contextlib.suppress(ModelFileError):  # most share nothing; what is broken is reported where it is loaded
        places += [part_folder(folder, name) for name in read_json(folder / SHARED) if not (folder / name).is_dir()]
    return sorted(file for place in places for file in place.glob("*.safetensors"))


def list_parts(folder: Path, replaced: Mapping[str, PartFiles], variants: Sequence[str]) -> dict[str, PartFiles | None]:
    """List all parts of a diffusers folder, each checked to be complete.

    Args:
        folder: with a model_index.json.
        replaced: parts that come from elsewhere.
        variants: of the weights, the most wanted first; "" is none.

    Raises:
        ModelFileError: a part or one of its files is missing, or holds only pickles.
    """
    parts, _ = read_index(folder)
    files: dict[str, PartFiles | None] = {}
    for name, classes in parts.items():
        if name in replaced:
            files[name] = replaced[name]
        elif classes is None:
            files[name] = None
        else:
            files[name] = part_files(name, *classes, part_folder(folder, name), variants)
    return files | {name: part for name, part in replaced.items() if name not in parts}


def read_part_config(folder: Path, part: str) -> dict[str, Any]:
    """Read the configuration of one part of a model's folder, shared parts too; empty where it cannot be read."""
    try:
        return read_json(part_folder(folder, part) / "config.json")
    except ModelFileError:
        return {}


def part_files(name: str, library: str, class_name: str, folder: Path, variants: Sequence[str]) -> PartFiles:
    """Return one part's files.

    Raises:
        ModelFileError: the folder or one of its files is missing, or it holds only pickles.
    """
    model = folder.parent.name
    if not folder.is_dir():
        raise ModelFileError(f"The model {model} has no folder '{name}'. Copy or download it again.")
    if any(word in class_name for word in LIGHT):
        _require_light(name, class_name, folder)
        return PartFiles(name, library, class_name, folder)
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        named = weights_variant(path.name)
        if named is not None:
            groups.setdefault(named, []).append(path)
    selected = next((variant for variant in (*variants, "", *groups) if variant in groups), None)
    if selected is None:
        selected = next((variant for variant in (*variants, "") if _list_indexes(folder, variant)), None)
    if selected is None:
        pickles = any(path.suffix in PICKLE_SUFFIXES for path in folder.iterdir())
        why = (
            "holds its weights as pickles only, which are never loaded. Get the safetensors form of the model"
            if pickles
            else "has no weights. Copy or download the model again"
        )
        raise ModelFileError(f"'{name}' of the model {model} {why}.")
    if not (folder / "config.json").is_file():
        raise ModelFileError(f"'{name}' of the model {model} has no config.json. Copy or download the model again.")
    weights = _list_shards(folder, selected)
    if not weights:
        raise ModelFileError(
            f"'{name}' of the model {model} has no list of its weight files. Copy or download the model again."
        )
    return PartFiles(name, library, class_name, folder, weights, selected)


def _require_light(name: str, class_name: str, folder: Path) -> None:
    """Raise ModelFileError unless the files are there without which transformers silently makes an empty tokenizer."""
    files = {path.name for path in folder.iterdir() if path.is_file() and path.stat().st_size}
    required = VOCABULARIES if "Tokenizer" in class_name else files
    if "Scheduler" in class_name:
        required = {"scheduler_config.json"}
    if not required & files:
        what = "vocabulary" if "Tokenizer" in class_name else "configuration"
        raise ModelFileError(
            f"'{name}' of the model {folder.parent.name} lacks its {what}. Copy or download the model again."
        )


def _list_indexes(folder: Path, variant: str) -> list[Path]:
    middle = f".{variant}" if variant else ""
    return [path for stem in STEMS if (path := folder / f"{stem}.safetensors.index{middle}.json").is_file()]


def _list_shards(folder: Path, variant: str) -> tuple[Path, ...]:
    """The shards of the index, or nothing where one whole file is there."""
    middle = f".{variant}" if variant else ""
    if any((folder / f"{stem}{middle}.safetensors").is_file() for stem in STEMS):
        return tuple(path for stem in STEMS if (path := folder / f"{stem}{middle}.safetensors").is_file())[:1]
    return tuple(shard for index in _list_indexes(folder, variant) for shard in check_index(index))


def needed_files(names: Iterable[str], parts: Mapping[str, tuple[str, str] | None], variant: str) -> list[str]:
    """Say which of a repository's files to fetch: configurations, tokenizers and one form of the safetensors weights.

    Args:
        names: all files of the repository, with "/".
        parts: from its model_index.json.
        variant: the weights' variant that is wanted where a part has it.
    """
    by_part: dict[str, list[str]] = {}
    for name in names:
        folder, _, file = name.partition("/")
        if parts.get(folder) and file and "/" not in file:
            by_part.setdefault(folder, []).append(file)
    paths = ["model_index.json"]
    for folder, files in sorted(by_part.items()):
        weights = {file: named for file in files if (named := weights_variant(file)) is not None}
        form = variant if variant in weights.values() else ""
        paths += [
            f"{folder}/{file}"
            for file in sorted(files)
            if weights.get(file) == form or (file not in weights and file.endswith(CONFIGS))
        ]
    return paths

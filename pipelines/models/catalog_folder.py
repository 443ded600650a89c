"""What a person put into the models folder: diffusers folders, checkpoint files and LoRAs."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from pipelines.core.errors import ModelFileError
from pipelines.models.entry import CatalogEntry, CheckpointFile
from pipelines.models.folder_classes import text_to_image_class
from pipelines.models.folder_walk import EMBEDDINGS, LORAS, FolderFile, Kinds, ModelFolders
from pipelines.weights.files import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES
from pipelines.weights.gguf_files import GGUF_INSTALL, has_gguf
from pipelines.weights.kinds import FileKind

__all__ = ["FAMILIES", "TINY_VAE", "EmbeddingEntry", "LoraEntry", "scan", "scan_embeddings", "scan_loras"]

FAMILIES = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
}
"""Pipelines that have a family of their own here; any other runs through its stock call."""

PIPELINES = {family: pipeline for pipeline, family in FAMILIES.items()}
VIDEO_WORDS = ("Video", "Wan", "LTX", "AnimateDiff", "SkyReels", "AnyFlow", "Mochi", "Latte", "Allegro")
SIZES = {"sd1": 512, "sd2": 768}
TINY_VAE = "tiny_vae"
"""Tiny decoders for previews, by family: left to pipelines.models.places. Among a model's parts it is called so too."""


@dataclasses.dataclass(frozen=True)
class LoraEntry:
    """A LoRA of the models folder.

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
    """A textual-inversion embedding of the models folder.

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


def scan(folder: Path | ModelFolders, taken: Iterable[str] = ()) -> list[CatalogEntry]:
    """Models in a folder, by name; a file that cannot be used is listed with its problem.

    Args:
        folder: the models folder, or several; one that does not exist holds nothing.
        taken: keys that are in use already.

    Returns:
        Entries with keys of lower-case letters, digits, ".", "_" and "-". A file of which nothing tells whether it
        predicts noise or v stands there twice, once for each.
    """
    folders, used, entries = _folders(folder), set(taken), []
    shards: set[Path] = set()
    for found in folders.files():
        if found.role or (set_name := _shard_set(found.path)) in shards:
            continue
        if set_name is not None:
            shards.add(set_name)
        for entry in _entries(found, folders.kinds):
            entries.append(dataclasses.replace(entry, key=_unique(entry.key or _safe(entry.label), used)))
    return entries


def scan_loras(folder: Path | ModelFolders) -> list[LoraEntry]:
    """LoRAs in folders named `loras`, `Lora` and the like, by name, the unusable ones with their problem."""
    folders, used, entries = _folders(folder), set[str](), []
    for found in folders.files():
        if found.role != LORAS or found.path.is_dir():
            continue
        key, label = _unique(_safe(found.path.stem), used), _printable(found.path.stem)
        family, base, problem = _kind_in(found, folders.kinds, "lora", "LoRA")
        entries.append(LoraEntry(key, label, found.path, family, base, _size(found.path), problem))
    return entries


def scan_embeddings(folder: Path | ModelFolders) -> list[EmbeddingEntry]:
    """Textual-inversion embeddings in folders named `embeddings`, by name, the unusable ones with their problem."""
    folders, used, entries = _folders(folder), set[str](), []
    for found in folders.files():
        if found.role != EMBEDDINGS or found.path.is_dir():
            continue
        name = re.sub(r"[\s,:()\[\]|<>]+", "_", _printable(found.path.stem))
        family, base, problem = _kind_in(found, folders.kinds, "embedding", "embedding")
        entries.append(EmbeddingEntry(_unique(name, used), found.path, family, base, _size(found.path), problem))
    return entries


def _folders(folder: Path | ModelFolders) -> ModelFolders:
    return folder if isinstance(folder, ModelFolders) else ModelFolders(folder)


def _kind_in(found: FolderFile, kinds: Kinds, wanted: str, called: str) -> tuple[str, str, str]:
    """(family, base, problem) of a file in a folder that is for one kind of files."""
    problem = found.problem or _suffix_problem(found.path)
    if problem:
        return "", "", problem
    try:
        kind = kinds.kind(found.path)
    except ModelFileError as error:
        return "", "", str(error)
    if kind.what != wanted:
        place = _PLACES.get(kind.what)
        move = f" It is {place[0]}: move it into the folder '{place[1]}'." if place else f" {kind.note}".rstrip()
        return "", "", f"{found.path.name} is no {called}.{move}"
    return kind.family, kind.base, f"{found.path.name} cannot be used here. {kind.note}" if kind.note else ""


_PLACES = {
    "lora": ("a LoRA", LORAS),
    "embedding": ("a textual-inversion embedding", EMBEDDINGS),
    "checkpoint": ("a checkpoint", "checkpoints"),
    "network": ("a model's denoising network", "diffusion_models"),
    "vae": ("a VAE", "vae"),
    "text_encoder": ("a text encoder", "text_encoders"),
}
"""What a file is called, and the folder where it belongs."""

_SHARD = re.compile(r"^(.*?)-\d{5}-of-\d{5}(.*)$")


def _shard_set(path: Path) -> Path | None:
    """What the parts of one model in several files have in common; None for any other file."""
    match = _SHARD.match(path.name)
    return path.with_name(f"{match[1]}*{match[2]}") if match else None


def _suffix_problem(path: Path) -> str:
    """Why a file is not even opened, by its suffix; "" for those that are."""
    suffix = path.suffix.lower()
    if suffix in SAFETENSORS_SUFFIXES or suffix in PICKLE_SUFFIXES or suffix == ".gguf":
        return ""
    if suffix in {".part", ".partial", ".crdownload", ".tmp", ".aria2", ".incomplete", ".download"}:
        return f"{path.name} is a download that has not ended. Let it finish, or download it again."
    if suffix in {".zip", ".7z", ".rar", ".tar", ".gz", ".xz"}:
        return f"{path.name} is an archive. Unpack it in the models folder."
    return f"{path.name} is no safetensors or GGUF file, the only kinds of weights that are read."


def _entries(found: FolderFile, kinds: Kinds) -> list[CatalogEntry]:
    """The entries of what was found: none for small parts of models that nobody would look for, else one or two."""
    path = found.path
    if found.problem or path.is_dir():
        if found.problem:
            return [_unusable(path, found.problem)]
        return [_folder_entry(path)]
    if _SHARD.match(path.name):
        return [_unusable(path, _shard_problem(path))]
    if (path.parent / "config.json").is_file() and path.name.startswith(("diffusion_pytorch_model", "model")):
        return [_unusable(path, _part_problem(path))]
    problem = _suffix_problem(path)
    return [_unusable(path, problem)] if problem else _file_entries(path, kinds)


def _unusable(path: Path, problem: str) -> CatalogEntry:
    label = _printable(path.name if path.is_dir() else path.stem)
    return CatalogEntry("", label, "stock", path=path, size_bytes=_size(path), problem=problem)


def _shard_problem(path: Path) -> str:
    return (
        f"{path.name} is one of several files of a network by itself. Put it with its list (*.index.json) and its "
        "config.json into the model's diffusers folder."
    )


def _part_problem(path: Path) -> str:
    return (
        f"{path.parent.name}/{path.name} is one part of a diffusers model. Put its whole folder, with "
        "model_index.json, into the models folder."
    )


def _file_entries(path: Path, kinds: Kinds) -> list[CatalogEntry]:
    """A file by itself: one entry, or two where nothing tells what its network predicts."""
    try:
        kind = kinds.kind(path)
    except ModelFileError as error:
        return [_unusable(path, str(error))]
    gguf = path.suffix.lower() == ".gguf"
    entry = CatalogEntry(
        "",
        _printable(path.stem),
        kind.family or "stock",
        pipeline=PIPELINES.get(kind.family, ""),
        path=path,
        size_bytes=_size(path),
        problem=_file_problem(path, kind, gguf),
        defaults=_defaults(kind.family, SIZES.get(kind.base, 1024)),
        file=CheckpointFile(kind.base, kind.lacks, kind.prediction, kind.zero_snr, kind.edm, gguf)
        if kind.what in {"checkpoint", "network"}
        else None,
    )
    if entry.problem or entry.file is None or kind.prediction:
        return [entry]
    told = _sidecar_prediction(path)
    if told:
        return [_predicting(entry, told)]
    if kind.base != "sd2" and not re.search(r"v[-_ ]?pred", path.stem, re.IGNORECASE):
        return [entry]
    plain = _safe(entry.label)
    return [
        dataclasses.replace(_predicting(entry, prediction), key=key, label=f"{entry.label} ({words})", notes=_TWICE)
        for prediction, words, key in (
            ("v_prediction", "v-prediction", plain),
            ("epsilon", "epsilon", f"{plain}-epsilon"),
        )
    ]


_TWICE = (
    "The file does not tell whether its network predicts v or the noise (epsilon), so it is listed once for each: "
    "the wrong one gives noise."
)


def _predicting(entry: CatalogEntry, prediction: str) -> CatalogEntry:
    defaults = dict(entry.defaults)
    if entry.file is not None and entry.file.base == "sd2" and prediction == "epsilon":
        defaults |= {"width": 512, "height": 512}
    return dataclasses.replace(
        entry, file=entry.file and dataclasses.replace(entry.file, prediction=prediction), defaults=defaults
    )


def _sidecar_prediction(path: Path) -> str:
    """What the yaml file beside a checkpoint says, as AUTOMATIC1111 reads it: "v_prediction", "epsilon" or ""."""
    sidecar = path.with_suffix(".yaml")
    try:
        if not sidecar.is_file() or sidecar.stat().st_size > 100_000:
            return ""
        text = sidecar.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    match = re.search(r"^\s*(?:parameterization|prediction_type)\s*:\s*[\"']?(\w+)", text, re.MULTILINE)
    if match is None:
        return "epsilon" if "LatentDiffusion" in text else ""
    return "v_prediction" if match[1].lower().startswith("v") else "epsilon"


def _file_problem(path: Path, kind: FileKind, gguf: bool) -> str:
    if kind.note:
        return f"{path.name} cannot be used by itself. {kind.note}"
    if kind.what in {"lora", "embedding"}:
        what, place = _PLACES[kind.what]
        return f"{path.name} is {what}. Move it into the folder '{place}'."
    if kind.what in {"vae", "text_encoder"}:
        return f"{path.name} is {_PLACES[kind.what][0]} by itself. Models that lack one are completed with it."
    if not kind.family:
        return f"{path.name} is none of the checkpoints known here: Stable Diffusion 1 to 3.5, SDXL, FLUX.1."
    if gguf and not has_gguf():
        return f"{path.name} is a GGUF file, which needs the package gguf. Install it with: {GGUF_INSTALL}"
    return ""


def _folder_entry(path: Path) -> CatalogEntry:
    label = _printable(path.name)
    try:
        index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
        pipeline = index["_class_name"]
        if not isinstance(pipeline, str) or not pipeline.isidentifier():
            raise ValueError(pipeline)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return CatalogEntry(
            "",
            label,
            "stock",
            path=path,
            problem=f"{label}: model_index.json cannot be read. Copy or download the model again.",
        )
    kind = "video" if any(word in pipeline for word in VIDEO_WORDS) else "image"
    pipeline, problem = (pipeline, "") if kind == "video" else text_to_image_class(path, index, pipeline)
    family = FAMILIES.get(pipeline, "stock")
    return CatalogEntry(
        "",
        label,
        family,
        pipeline=pipeline,
        kind=kind,
        path=path,
        defaults=_defaults(family),
        size_bytes=sum(_size(file) for file in path.glob("*/*.safetensors")),
        problem=problem and f"{label} {problem}",
    )


def _defaults(family: str, size: int = 0) -> dict:
    """Sensible settings; size 0 takes the model's own."""
    if family in {"sd", "sdxl"}:
        return {
            "num_inference_steps": 25,
            "width": size,
            "height": size,
            "sampler": "dpmpp_2m",
            "guidance": {"key": "cfg", "guidance_scale": 7.0 if family == "sd" else 5.0},
        }
    if family in {"sd3", "flux"}:
        return {
            "num_inference_steps": 28,
            "width": size,
            "height": size,
            "sampler": "flow_euler",
            "schedule": "shift",
            "guidance": {"key": "cfg", "guidance_scale": 4.5 if family == "sd3" else 3.5},
        }
    return {"num_inference_steps": 25}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _printable(name: str) -> str:
    """The name without control characters, as a label."""
    kept = "".join(letter for letter in name if unicodedata.category(letter)[0] not in "CZ" or letter == " ")
    return kept.strip()[:80] or "model"


def _safe(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._]+", "-", plain).strip("-._")[:60] or "model"


def _unique(key: str, used: set[str]) -> str:
    number, candidate = 1, key
    while candidate in used:
        number += 1
        candidate = f"{key}-{number}"
    used.add(candidate)
    return candidate

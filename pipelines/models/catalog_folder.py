"""What a person put into the models folder: diffusers folders, checkpoint files and LoRAs."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.core.errors import ModelFileError
from pipelines.models.entry import CatalogEntry
from pipelines.weights.files import PICKLE_SUFFIXES, read_header
from pipelines.weights.kinds import file_kind

__all__ = ["FAMILIES", "TINY_VAE", "LoraEntry", "scan", "scan_loras"]

log = logging.getLogger(__name__)

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
LORAS = "loras"
METRICS = "metrics"
"""Weights of measures, which are no models: left to pipelines.metrics."""

TINY_VAE = "tiny_vae"
"""Tiny decoders for previews, by family: left to pipelines.models.places. Beside a model's parts the folder is called so too."""

MAX_DEPTH = 2
MAX_FILES = 2000


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


def scan(folder: Path, taken: Iterable[str] = ()) -> list[CatalogEntry]:
    """Models in a folder, by name; a file that cannot be used is listed with its problem.

    Args:
        folder: the models folder; one that does not exist holds nothing.
        taken: keys that are in use already.

    Returns:
        Entries with keys of lower-case letters, digits, ".", "_" and "-". Whatever a link leads to outside
        the folder is left out.
    """
    used, entries = set(taken), []
    for path in _walk(folder):
        entry = _folder_entry(path) if path.is_dir() else _file_entry(path)
        if entry is not None:
            entries.append(dataclasses.replace(entry, key=_unique(_safe(entry.label), used)))
    return entries


def scan_loras(folder: Path) -> list[LoraEntry]:
    """LoRAs in the models folder's `loras`, by name, the unusable ones with their problem."""
    used, entries = set(), []
    for path in _walk(folder / LORAS, root=folder):
        if path.is_dir() or path.suffix.lower() not in {".safetensors", *PICKLE_SUFFIXES}:
            continue
        key, label = _unique(_safe(path.stem), used), _printable(path.stem)
        try:
            kind = file_kind(read_header(path))
            problem = "" if kind.what == "lora" else f"{path.name} is no LoRA."
        except ModelFileError as error:
            kind, problem = None, str(error)
        family, base = (kind.family, kind.base) if kind and not problem else ("", "")
        entries.append(LoraEntry(key, label, path, family, base, _size(path), problem))
    return entries


def _walk(folder: Path, root: Path | None = None, depth: int = 0) -> Iterator[Path]:
    """Diffusers folders and files, two levels deep, in order, never through a link that leaves the root."""
    root = root or folder
    try:
        names = sorted(os.listdir(folder))[:MAX_FILES]
    except OSError:
        return
    for name in names:
        path = folder / name
        if name.startswith(".") or (depth == 0 and name in (LORAS, METRICS, TINY_VAE) and folder == root):
            continue
        if not _inside(path, root):
            log.warning("%s in the models folder leads outside it and is left out", name)
        elif (path / "model_index.json").is_file() or path.is_file():
            yield path
        elif path.is_dir() and depth + 1 < MAX_DEPTH and not (path / "quantization.json").is_file():
            yield from _walk(path, root, depth + 1)


def _inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve(strict=True).is_relative_to(root.resolve(strict=True))
    except (OSError, RuntimeError):
        return False


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
    family = FAMILIES.get(pipeline, "stock")
    kind = "video" if any(word in pipeline for word in VIDEO_WORDS) else "image"
    return CatalogEntry(
        "",
        label,
        family,
        pipeline=pipeline,
        kind=kind,
        path=path,
        defaults=_defaults(family),
        size_bytes=sum(_size(file) for file in path.glob("*/*.safetensors")),
    )


def _file_entry(path: Path) -> CatalogEntry | None:
    label, suffix = _printable(path.stem), path.suffix.lower()
    if suffix not in {".safetensors", ".ckpt", ".pt", ".pth"}:
        return None
    try:
        kind = file_kind(read_header(path))
    except ModelFileError as error:
        return CatalogEntry("", label, "stock", path=path, size_bytes=_size(path), problem=str(error))
    problem = kind.note and f"{path.name} cannot be used by itself. {kind.note}"
    if kind.what == "lora":
        problem = f"{path.name} is a LoRA. Move it into the folder '{LORAS}'."
    elif not kind.family:
        problem = f"{path.name} is none of the checkpoints known here: Stable Diffusion 1 to 3.5, SDXL, FLUX.1."
    return CatalogEntry(
        "",
        label,
        kind.family or "stock",
        pipeline=PIPELINES.get(kind.family, ""),
        path=path,
        size_bytes=_size(path),
        problem=problem,
        defaults=_defaults(kind.family, SIZES.get(kind.base, 1024)),
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

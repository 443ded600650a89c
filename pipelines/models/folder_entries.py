"""From a file or folder of the models folder to its entries of the catalog, or to what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from pathlib import Path

from pipelines.core.errors import ModelFileError
from pipelines.models.entry import CatalogEntry, CheckpointFile
from pipelines.models.files import weight_files
from pipelines.models.folder_classes import text_to_image_class
from pipelines.models.folder_problems import (
    CHOSEN_BESIDE,
    SHARD,
    VISION_ENCODER,
    explain_file,
    explain_incomplete,
    explain_part,
    explain_shard,
    explain_suffix,
    read_class_name,
)
from pipelines.models.folder_walk import FolderFile, Kinds
from pipelines.models.safety_checker import is_safety_checker

__all__ = ["FAMILIES", "build_entries", "find_shard_set", "make_key", "make_printable", "measure_size"]

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


def find_shard_set(path: Path) -> Path | None:
    """Say what the parts of one model in several files have in common; None for any other file."""
    match = SHARD.match(path.name)
    return path.with_name(f"{match[1]}*{match[2]}") if match else None


def build_entries(file: FolderFile, kinds: Kinds) -> list[CatalogEntry]:
    """Build the entries of what was found: none for small parts that nobody would look for, else one or two."""
    path = file.path
    if file.problem or path.is_dir():
        if file.problem:
            return [_build_unusable_entry(path, file.problem)]
        return [_build_folder_entry(path, kinds)]
    if SHARD.match(path.name):
        return [_build_unusable_entry(path, explain_shard(path))]
    if (path.parent / "config.json").is_file() and path.name.startswith(("diffusion_pytorch_model", "model")):
        return [] if is_safety_checker(path.parent) else [_build_part_entry(path)]
    problem = explain_suffix(path)
    return [_build_unusable_entry(path, problem)] if problem else _build_file_entries(path, kinds)


def _build_unusable_entry(path: Path, problem: str) -> CatalogEntry:
    label = make_printable(path.name if path.is_dir() else path.stem)
    return CatalogEntry("", label, "stock", path=path, size_bytes=measure_size(path), problem=problem)


_BESIDE_MODELS = ("ControlNet", "T2IAdapter", "Autoencoder", VISION_ENCODER)
"""What the classes are called of parts that are chosen beside a model."""


def _build_part_entry(path: Path) -> CatalogEntry:
    """Of a part by itself, which may be one that is chosen beside a model."""
    entry = _build_unusable_entry(path, explain_part(path))
    if not any(word in read_class_name(path.parent) for word in _BESIDE_MODELS):
        return entry
    return dataclasses.replace(entry, label=make_printable(path.parent.name), is_addition=True)


def _build_file_entries(path: Path, kinds: Kinds) -> list[CatalogEntry]:
    """A file by itself: one entry, or two where nothing tells what its network predicts."""
    try:
        kind = kinds.kind(path)
    except ModelFileError as error:
        return [_build_unusable_entry(path, str(error))]
    gguf = path.suffix.lower() == ".gguf"
    entry = CatalogEntry(
        "",
        make_printable(path.stem),
        kind.family or "stock",
        pipeline=PIPELINES.get(kind.family, ""),
        path=path,
        size_bytes=measure_size(path),
        problem=explain_file(path, kind, gguf),
        is_addition=kind.what == "vae" or (kind.what in CHOSEN_BESIDE and not kind.note),
        defaults=_choose_defaults(kind.family, SIZES.get(kind.base, 1024)),
        file=CheckpointFile(kind.base, kind.lacks, kind.prediction, kind.zero_snr, kind.edm, gguf)
        if kind.what in {"checkpoint", "network"}
        else None,
    )
    if entry.problem or entry.file is None or kind.prediction:
        return [entry]
    sidecar_prediction = _read_sidecar_prediction(path)
    if sidecar_prediction:
        return [_set_prediction(entry, sidecar_prediction)]
    if kind.base != "sd2" and not re.search(r"v[-_ ]?pred", path.stem, re.IGNORECASE):
        return [entry]
    plain = make_key(entry.label)
    return [
        dataclasses.replace(_set_prediction(entry, prediction), key=key, label=f"{entry.label} ({words})", notes=_TWICE)
        for prediction, words, key in (
            ("v_prediction", "v-prediction", plain),
            ("epsilon", "epsilon", f"{plain}-epsilon"),
        )
    ]


_TWICE = (
    "The file does not tell whether its network predicts v or the noise (epsilon), so it is listed once for each: "
    "the wrong one gives noise."
)


def _set_prediction(entry: CatalogEntry, prediction: str) -> CatalogEntry:
    defaults = dict(entry.defaults)
    if entry.file is not None and entry.file.base == "sd2" and prediction == "epsilon":
        defaults |= {"width": 512, "height": 512}
    return dataclasses.replace(
        entry, file=entry.file and dataclasses.replace(entry.file, prediction=prediction), defaults=defaults
    )


def _read_sidecar_prediction(path: Path) -> str:
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


def _build_folder_entry(path: Path, kinds: Kinds) -> CatalogEntry:
    label = make_printable(path.name)
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
        defaults=_choose_defaults(family),
        size_bytes=sum(measure_size(file) for file in weight_files(path)),
        problem=f"{label} {problem}" if problem else explain_incomplete(path, kinds),
    )


def _choose_defaults(family: str, size: int = 0) -> dict:
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


def measure_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def make_printable(name: str) -> str:
    """Return the name without control characters, as a label."""
    printable = "".join(letter for letter in name if unicodedata.category(letter)[0] not in "CZ" or letter == " ")
    return printable.strip()[:80] or "model"


def make_key(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._]+", "-", plain).strip("-._")[:60] or "model"

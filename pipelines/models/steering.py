"""ControlNets, T2I-Adapters, IP-Adapters and their image encoders of the models folder, and which fit a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import ModelFileError, SettingsError, UnknownMethodError
from pipelines.models.additions import ASSETS, find_base
from pipelines.models.entry import CatalogEntry
from pipelines.models.files import PartFiles, part_files, part_folder, read_json
from pipelines.models.folder_entries import make_key, make_printable, measure_size
from pipelines.models.folder_walk import ModelFolders
from pipelines.models.steering_entry import ADAPTER, CONTROLNET, ENCODER, T2I_ADAPTER, SteeringEntry
from pipelines.weights.files import SAFETENSORS_SUFFIXES
from pipelines.weights.gguf_files import read_weights_header
from pipelines.weights.network_kinds import CONTEXT_WIDTHS
from pipelines.weights.t2i_adapter_levels import (
    ADAPTERS,
    STANDARD_LEVELS,
    Levels,
    list_adapter_levels,
    list_unet_levels,
)
from pipelines.weights.t2i_adapter_names import read_adapter_config

__all__ = ["build_steering_part", "explain_misfit", "find_steering", "is_control_lora", "list_steering"]

_FAMILIES = {"SD3ControlNetModel": "sd3", "FluxControlNetModel": "flux", "ControlNetModel": "sd"}
_NOUNS = {
    CONTROLNET: "ControlNet",
    ADAPTER: "IP-Adapter",
    ENCODER: "image encoder",
    **dict.fromkeys(ADAPTERS, "T2I-Adapter"),
}
_VISION, _T2I = "CLIPVisionModelWithProjection", "T2IAdapter"


def list_steering(folders: ModelFolders, what: str) -> list[SteeringEntry]:
    """List those of one kind in the models folders, by name, and behind them the shipped ones whose names are free."""
    entries: list[SteeringEntry] = []
    keys: set[str] = set()
    for entry in _find_entries(folders):
        if entry.what == what:
            key, number = entry.key, 1
            while key in keys:
                number += 1
                key = f"{entry.key}-{number}"
            keys.add(key)
            entries.append(dataclasses.replace(entry, key=key))
    bundled = _find_entries(ModelFolders(ASSETS / "controls", kinds=folders.kinds)) if what == T2I_ADAPTER else ()
    return [*entries, *(entry for entry in bundled if entry.key not in keys)]


def _find_entries(folders: ModelFolders) -> Iterator[SteeringEntry]:
    visited: set[Path] = set()
    for file in folders.files():
        path = file.path
        if file.problem or file.role or path.is_dir() or path.suffix.lower() not in SAFETENSORS_SUFFIXES:
            continue
        if path.name.startswith(("diffusion_pytorch_model", "model")) and (path.parent / "config.json").is_file():
            if path.parent not in visited:
                visited.add(path.parent)
                yield from _read_folder(path)
            continue
        try:
            kind = folders.kinds.kind(path)
        except ModelFileError:
            continue
        if kind.what == T2I_ADAPTER:
            yield _build_t2i_entry(path, path, read_adapter_config(read_weights_header(path).tensors))
        if kind.what in (CONTROLNET, ADAPTER):
            width = next((width for width, names in CONTEXT_WIDTHS.items() if names == (kind.family, kind.base)), 0)
            yield SteeringEntry(
                kind.what,
                make_key(path.stem),
                make_printable(path.stem),
                path,
                kind.family,
                int(kind.base) if kind.base.isdigit() else width,
                0,
                "ControlNetModel" if kind.what == CONTROLNET else "",
                measure_size(path),
                f"{path.name} cannot be used here. {kind.note}" if kind.note else "",
            )


def _build_t2i_entry(place: Path, weights: Path, config: Mapping[str, Any]) -> SteeringEntry:
    """The entry of a T2I-Adapter in a file or a folder."""
    name = place.name if place.is_dir() else place.stem
    levels = list_adapter_levels(config)
    return SteeringEntry(
        T2I_ADAPTER,
        make_key(name),
        make_printable(name),
        place,
        class_name=_T2I,
        size_bytes=measure_size(weights),
        problem="" if levels else f"{make_printable(place.name)} is a T2I-Adapter of a form that is not read here.",
        levels=levels,
    )


def _read_folder(path: Path) -> Iterator[SteeringEntry]:
    folder, label = path.parent, make_printable(path.parent.name)
    try:
        config = read_json(folder / "config.json")
    except ModelFileError:
        return
    if _VISION in (config.get("architectures") or ()):
        yield SteeringEntry(ENCODER, make_key(folder.name), label, folder, class_name=_VISION)
    class_name = str(config.get("_class_name", ""))
    if class_name == _T2I:
        yield _build_t2i_entry(folder, path, config)
    if "ControlNet" not in class_name:
        return
    family, width = _identify(class_name, config)
    problem = "" if family else f"{label} is a {class_name[:40]}, which is not read here."
    if config.get("num_mode"):
        problem = f"{label} is a ControlNet of several modes (union), which is not read here."
    yield SteeringEntry(
        CONTROLNET,
        make_key(folder.name),
        label,
        folder,
        family,
        width,
        _shrink_of(config.get("conditioning_embedding_out_channels")) if class_name == "ControlNetModel" else 0,
        class_name,
        measure_size(path),
        problem,
    )


def _identify(class_name: str, config: Mapping[str, Any]) -> tuple[str, int]:
    family = _FAMILIES.get(class_name, "")
    if family == "sd":
        is_xl = config.get("addition_embed_type") == "text_time"
        return "sdxl" if is_xl else "sd", int(config.get("cross_attention_dim") or 0)
    heads, width = config.get("num_attention_heads"), config.get("attention_head_dim")
    return family, heads * width if isinstance(heads, int) and isinstance(width, int) else 0


def _read_model_width(entry: CatalogEntry) -> int:
    """The width that a model's parts must have, as far as its files on this machine tell; 0 where they do not."""
    if entry.path is not None and entry.path.is_dir():
        name = "unet" if entry.family in {"sd", "sdxl"} else "transformer"
        try:
            config = json.loads((entry.path / name / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return 0
        return _identify("ControlNetModel" if name == "unet" else "SD3ControlNetModel", config)[1]
    base = find_base(entry)
    return next((width for width, (_, name) in CONTEXT_WIDTHS.items() if name == base), 0)


def explain_misfit(steering: SteeringEntry, entry: CatalogEntry) -> str:
    """Say why one of them does not fit a model, as a sentence; "" where nothing speaks against it.

    Args:
        steering: of the models folder.
        entry: of the catalog.
    """
    if steering.problem or steering.what == ENCODER:
        return steering.problem
    if steering.levels:
        own = _read_model_levels(entry)
        fits = not own or own[: len(steering.levels)] == steering.levels
        return "" if fits and entry.family in STANDARD_LEVELS else _describe_misfit(steering, entry)
    width = _read_model_width(entry)
    if steering.family == entry.family and (not width or not steering.width or width == steering.width):
        return _explain_factor(steering, entry)
    return _describe_misfit(steering, entry)


def _describe_misfit(steering: SteeringEntry, entry: CatalogEntry) -> str:
    return (
        f"The {_NOUNS[steering.what]} {steering.label} is made for another kind of model than {entry.label}. "
        "Choose one for this model."
    )


def _read_model_levels(entry: CatalogEntry) -> Levels:
    """What may be added to a model's network, as far as its files on this machine tell; () where they do not."""
    if entry.path is None or not entry.path.is_dir():
        return () if entry.quantized else STANDARD_LEVELS.get(entry.family, ())
    try:
        unet = read_json(part_folder(entry.path, "unet") / "config.json")
        vae = read_json(part_folder(entry.path, "vae") / "config.json")
    except ModelFileError:
        return ()
    return list_unet_levels(unet, _shrink_of(vae.get("block_out_channels")) or 8)


def _shrink_of(channels: Any) -> int:
    """How many times a network of so many levels shrinks each side; 0 where the levels are no list."""
    return 2 ** (len(channels) - 1) if isinstance(channels, list | tuple) and channels else 0


def _explain_factor(steering: SteeringEntry, entry: CatalogEntry) -> str:
    if not steering.factor or entry.path is None or not entry.path.is_dir():
        return ""
    try:
        config = read_json(part_folder(entry.path, "vae") / "config.json")
    except ModelFileError:
        return ""
    factor = _shrink_of(config.get("block_out_channels"))
    if not factor or factor == steering.factor:
        return ""
    return (
        f"The {_NOUNS[steering.what]} {steering.label} shrinks its picture by {steering.factor}, and the VAE of "
        f"{entry.label} by {factor}. Choose one for this model."
    )


def find_steering(entries: Sequence[SteeringEntry], what: str, key: str, entry: CatalogEntry) -> SteeringEntry:
    """Find one by its key and check that it fits a model.

    Args:
        entries: those of this kind that there are.
        what: the kind.
        key: of the wanted one.
        entry: of the model.

    Raises:
        UnknownMethodError: there is none of this key.
        SettingsError: it does not fit.
    """
    found = next((one for one in entries if one.key == key), None)
    if found is None:
        fitting = [one.key for one in entries if not explain_misfit(one, entry)]
        raise UnknownMethodError(_NOUNS[what], key, fitting)
    if reason := explain_misfit(found, entry):
        raise SettingsError(reason)
    return found


def is_control_lora(steering: SteeringEntry) -> bool:
    """Say whether one of them is a file of low-rank changes, from which a ControlNet is made beside the network.

    Raises:
        ModelFileError: the file is broken.
    """
    is_file = steering.what == CONTROLNET and not steering.path.is_dir()
    return is_file and any(name.endswith(".up") for name in read_weights_header(steering.path).tensors)


def build_steering_part(steering: SteeringEntry, network_config: Path, variants: Sequence[str]) -> PartFiles:
    """Return the files of one of them as a part of a model.

    Args:
        steering: of the models folder.
        network_config: folder of the configuration of the model's network, by which a single file is read.
        variants: of the weights, the most wanted first.

    Raises:
        ModelFileError: files are missing.
    """
    library = "transformers" if steering.what == ENCODER else "diffusers"
    if steering.path.is_dir():
        return part_files(steering.what, library, steering.class_name, steering.path, variants)
    return PartFiles(
        steering.what,
        library,
        steering.class_name or "ModelMixin",
        network_config,
        (steering.path,),
        single=True,
    )

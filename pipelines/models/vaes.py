"""VAEs of the models folder: which there are, and which of them fit a model."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import ModelFileError, SettingsError, UnknownMethodError
from pipelines.models.donors import VAE_CHANNELS
from pipelines.models.entry import CatalogEntry
from pipelines.models.files import PartFiles, part_files, part_folder, read_json
from pipelines.models.folder_entries import make_key, make_printable, measure_size
from pipelines.models.folder_problems import explain_suffix
from pipelines.models.folder_walk import FolderFile, ModelFolders
from pipelines.models.shipped_configurations import find_shipped_configuration
from pipelines.weights.files import SAFETENSORS_SUFFIXES
from pipelines.weights.gguf_files import read_weights_header

__all__ = ["VaeEntry", "VaeFacts", "build_vae_part", "explain_vae_misfit", "find_vae", "list_vaes", "read_vae_facts"]

CLASSES = ("AutoencoderKL", "AutoencoderTiny")
"""Classes of diffusers whose folders are taken; a file by itself is the first."""

_BLOCK = re.compile(r"decoder\.(?:up|up_blocks)\.(\d+)\.")
_USUAL_FACTOR = 8


@dataclasses.dataclass(frozen=True)
class VaeFacts:
    """Says what decides whether a VAE reads a model's latents; 0 or None where nothing tells.

    Attributes:
        channels: of the latents.
        factor: pixels to a latent pixel.
        scaling: what latents are multiplied by for the network.
        shift: what is taken from them before.
    """

    channels: int = 0
    factor: int = 0
    scaling: float | None = None
    shift: float | None = None


@dataclasses.dataclass(frozen=True)
class VaeEntry:
    """Describes a VAE of the models folder.

    Attributes:
        key: its name in requests.
        label: its file's or folder's name.
        path: the file, or the diffusers folder.
        facts: what it says of its latents.
        class_name: in diffusers.
        size_bytes: of the weights.
        problem: why it cannot be used, as a sentence; "" if it can.
    """

    key: str
    label: str
    path: Path
    facts: VaeFacts = VaeFacts()
    class_name: str = CLASSES[0]
    size_bytes: int = 0
    problem: str = ""


def list_vaes(folders: ModelFolders) -> list[VaeEntry]:
    """List the VAEs that stand by themselves in the models folders, by name."""
    entries: list[VaeEntry] = []
    keys: set[str] = set()
    for file in folders.files():
        entry = _build_entry(file, folders)
        if entry is not None:
            key, number = entry.key, 1
            while key in keys:
                number += 1
                key = f"{entry.key}-{number}"
            keys.add(key)
            entries.append(dataclasses.replace(entry, key=key))
    return entries


def _build_entry(file: FolderFile, folders: ModelFolders) -> VaeEntry | None:
    path = file.path
    if file.problem or file.role or path.is_dir() or path.suffix.lower() not in SAFETENSORS_SUFFIXES:
        return None
    if explain_suffix(path):
        return None
    config = path.parent / "config.json"
    try:
        if config.is_file() and path.name.startswith("diffusion_pytorch_model"):
            return _build_folder_entry(path, read_json(config))
        if folders.kinds.kind(path).what == "vae":
            return VaeEntry(
                make_key(path.stem),
                make_printable(path.stem),
                path,
                _read_file_facts(path),
                size_bytes=measure_size(path),
            )
    except ModelFileError:
        return None
    return None


def _build_folder_entry(path: Path, config: Mapping[str, Any]) -> VaeEntry | None:
    class_name = str(config.get("_class_name", ""))
    if not class_name.startswith("Autoencoder") or "-of-" in path.name:
        return None
    label, folder = make_printable(path.parent.name), path.parent
    problem = (
        ""
        if class_name in CLASSES
        else f"{label} is a {class_name[:40]}. Only {' and '.join(CLASSES)} are taken as a VAE."
    )
    return VaeEntry(
        make_key(folder.name), label, folder, _facts_of_config(config), class_name, measure_size(path), problem
    )


def _read_file_facts(path: Path) -> VaeFacts:
    tensors = read_weights_header(path).tensors
    blocks = {int(match[1]) for name in tensors if (match := _BLOCK.search(name))}
    shapes = [tensor.shape for name, tensor in tensors.items() if name.endswith("decoder.conv_in.weight")]
    return VaeFacts(shapes[0][1] if shapes else 0, 2 ** max(blocks) if blocks else 0)


def _facts_of_config(config: Mapping[str, Any]) -> VaeFacts:
    blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels") or ()
    scaling, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor")
    if config.get("_class_name") == "AutoencoderTiny":
        scaling = shift = None  # it reads the scaled latents themselves
    factor = 2 ** (len(blocks) - 1) if isinstance(blocks, (list, tuple)) and blocks else 0
    return VaeFacts(int(config.get("latent_channels", 4)), factor, scaling, (shift or 0.0) if scaling else None)


def read_vae_facts(entry: CatalogEntry) -> VaeFacts:
    """Read what a model's latents are, as far as its files on this machine tell without loading them."""
    folder = entry.path if entry.path is not None and entry.path.is_dir() else None
    if folder is None and entry.file is not None:
        folder = find_shipped_configuration(entry.file.base)
    try:
        if folder is not None:
            return _facts_of_config(read_json(part_folder(folder, "vae") / "config.json"))
    except (ModelFileError, ValueError, TypeError, AttributeError):
        pass
    channels = VAE_CHANNELS.get(entry.family, 0)
    return VaeFacts(channels, _USUAL_FACTOR if channels else 0)


def explain_vae_misfit(vae: VaeEntry, own: VaeFacts) -> str:
    """Say why a VAE does not read a model's latents, as a sentence; "" where nothing speaks against it.

    Args:
        vae: of the models folder.
        own: of the model's own VAE.
    """
    if vae.problem:
        return vae.problem
    facts = vae.facts
    if facts.channels and own.channels and facts.channels != own.channels:
        return (
            f"The VAE {vae.label} has latents of {facts.channels} channels, this model's have {own.channels}. Choose "
            "another, or the model's own."
        )
    if facts.factor and own.factor and facts.factor != own.factor:
        return (
            f"The VAE {vae.label} shrinks each side by {facts.factor}, this model's by {own.factor}. Choose another, "
            "or the model's own."
        )
    if not _is_close(facts.scaling, own.scaling) or not _is_close(facts.shift, own.shift):
        return (
            f"The VAE {vae.label} scales its latents by {facts.scaling:g} (shift {facts.shift or 0:g}), this model's "
            f"by {own.scaling or 0:g} (shift {own.shift or 0:g}): it belongs to another kind of model. Choose "
            "another, or the model's own."
        )
    return ""


def _is_close(theirs: float | None, ours: float | None) -> bool:
    return theirs is None or ours is None or math.isclose(theirs, ours, rel_tol=1e-3, abs_tol=1e-6)


def find_vae(entries: Sequence[VaeEntry], key: str, entry: CatalogEntry) -> VaeEntry:
    """Find a VAE by its key and check that it fits a model.

    Args:
        entries: those that there are.
        key: of the wanted one.
        entry: of the model.

    Raises:
        UnknownMethodError: there is none of this key.
        SettingsError: it does not fit.
    """
    found = next((one for one in entries if one.key == key), None)
    if found is None:
        own = read_vae_facts(entry)
        raise UnknownMethodError("VAE", key, [one.key for one in entries if not explain_vae_misfit(one, own)])
    if reason := explain_vae_misfit(found, read_vae_facts(entry)):
        raise SettingsError(reason)
    return found


def build_vae_part(vae: VaeEntry, config: Path, variants: Sequence[str]) -> PartFiles:
    """Return the files of a VAE as a part of a model.

    Args:
        vae: of the models folder.
        config: folder of the configuration of the model's own VAE, which that of a file is.
        variants: of the weights, the most wanted first.

    Raises:
        ModelFileError: files are missing.
        SettingsError: it does not fit the configuration.
    """
    own = _facts_of_config(read_json(config / "config.json"))
    if reason := explain_vae_misfit(vae, own):
        raise SettingsError(reason)
    if vae.path.is_dir():
        return part_files("vae", "diffusers", vae.class_name, vae.path, variants)
    return PartFiles("vae", "diffusers", vae.class_name, config, (vae.path,), single=True)

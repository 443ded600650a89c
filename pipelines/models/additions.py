"""LoRAs, embeddings and upscalers beside the models: those that ship, and which of them fit a model."""

from __future__ import annotations

from pathlib import Path

from pipelines.core.errors import ModelFileError
from pipelines.models.catalog_folder import (
    EmbeddingEntry,
    LoraEntry,
    UpscalerEntry,
    scan_embeddings,
    scan_loras,
    scan_upscalers,
)
from pipelines.models.donors import DONORS
from pipelines.models.entry import CatalogEntry
from pipelines.models.files import part_folder, read_json
from pipelines.models.folder_walk import ModelFolders
from pipelines.weights.network_kinds import CONTEXT_WIDTHS

__all__ = ["find_base", "fits_model", "list_embeddings", "list_loras", "list_upscalers"]

ASSETS = Path(__file__).resolve().parents[2] / "assets"
_SHIPPED_BASES = frozenset({"emoji", "emoji-128", "emoji-128-flow"})
"""Bases of their own: what is made for one of the shipped models fits no other."""


def list_loras(folders: ModelFolders) -> list[LoraEntry]:
    """List the LoRAs of the models folders and, behind them, the shipped ones whose names are free."""
    own = scan_loras(folders)
    taken = {lora.key for lora in own}
    bundled = scan_loras(ModelFolders(ASSETS / "loras", kinds=folders.kinds))
    return [*own, *(lora for lora in bundled if lora.key not in taken)]


def list_embeddings(folders: ModelFolders) -> list[EmbeddingEntry]:
    """List the embeddings of the models folders and, behind them, the shipped ones whose names are free."""
    own = scan_embeddings(folders)
    taken = {embedding.key for embedding in own}
    bundled = scan_embeddings(ModelFolders(ASSETS / "embeddings", kinds=folders.kinds))
    return [*own, *(embedding for embedding in bundled if embedding.key not in taken)]


def list_upscalers(folders: ModelFolders) -> list[UpscalerEntry]:
    """List the upscalers of the models folders and, behind them, the shipped ones whose names are free."""
    own = scan_upscalers(folders)
    taken = {upscaler.key for upscaler in own}
    bundled = scan_upscalers(ModelFolders(ASSETS / "upscalers", kinds=folders.kinds))
    return [*own, *(upscaler for upscaler in bundled if upscaler.key not in taken)]


def fits_model(addition: LoraEntry | EmbeddingEntry, entry: CatalogEntry) -> bool:
    """Whether a LoRA or an embedding is made for a model, as far as its header and the model's files tell.

    Args:
        addition: of the list.
        entry: of the catalog.
    """
    if addition.problem or addition.family not in ("", entry.family):
        return False
    base = find_base(entry)
    if _SHIPPED_BASES & {addition.base, base}:
        return addition.base in ("", base)
    # SD3's and FLUX.1's sizes take the same files; Stable Diffusion's versions do not.
    return entry.family != "sd" or not addition.base or not base or addition.base == base


def find_base(entry: CatalogEntry) -> str:
    """Which version of its family a model is, "" where nothing tells."""
    key = entry.quantized.base if entry.quantized else entry.key
    if key in _SHIPPED_BASES:
        return key
    if entry.file is not None:
        return entry.file.base
    if entry.path is not None:
        try:
            plain = read_json(part_folder(entry.path, "unet") / "config.json")
            return CONTEXT_WIDTHS.get(plain.get("cross_attention_dim") or 0, ("", ""))[1]
        except (ModelFileError, TypeError):
            return ""
    return next((base for base, keys in DONORS.items() if key in keys), "")

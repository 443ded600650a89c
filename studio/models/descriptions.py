"""What programs read of the models folder: models, LoRAs, embeddings and upscalers as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.models.catalog_folder import EmbeddingEntry, LoraEntry, UpscalerEntry
from pipelines.models.entry import CatalogEntry

if TYPE_CHECKING:
    from studio.models.memory_segments import DeviceRow

__all__ = ["describe_device_row", "describe_embedding", "describe_lora", "describe_model", "describe_upscaler"]


def describe_device_row(row: DeviceRow) -> Mapping[str, Any]:
    """Return a device as plain values for programs."""
    held = [{"models": list(one.models), "bytes": one.bytes, "in_use": one.in_use} for one in row.segments]
    return {
        "device": row.device,
        "name": row.name,
        "total_bytes": row.memory and row.memory.total,
        "free_bytes": row.memory and row.memory.free,
        "limit_bytes": row.limit,
        "used_bytes": sum(one.bytes for one in row.segments),
        "held": held,
    }


def describe_model(entry: CatalogEntry, is_here: bool, is_loaded: bool) -> Mapping[str, Any]:
    """Return a model as plain values for programs."""
    place = "problem" if entry.problem else "here" if is_here else "hub"
    return {
        "key": entry.key,
        "label": entry.label,
        "family": entry.family,
        "kind": entry.kind,
        "size_bytes": entry.size_bytes,
        "licence": entry.licence,
        "licence_url": entry.licence_url,
        "gated": entry.gated,
        "repository": entry.repository,
        "where": place,
        "loaded": is_loaded,
        "problem": entry.problem,
        "notes": entry.notes,
    }


def describe_embedding(embedding: EmbeddingEntry) -> Mapping[str, Any]:
    """Return a textual-inversion embedding as plain values for programs."""
    return {
        "key": embedding.key,
        "family": embedding.family,
        "size_bytes": embedding.size_bytes,
        "problem": embedding.problem,
    }


def describe_upscaler(upscaler: UpscalerEntry) -> Mapping[str, Any]:
    """Return an upscaler as plain values for programs."""
    return {"key": upscaler.key, "size_bytes": upscaler.size_bytes, "problem": upscaler.problem}


def describe_lora(lora: LoraEntry) -> Mapping[str, Any]:
    """Return a LoRA as plain values for programs."""
    return {
        "key": lora.key,
        "label": lora.label,
        "family": lora.family,
        "size_bytes": lora.size_bytes,
        "problem": lora.problem,
    }

"""What a LoRA brings beside its weights: embeddings, and what equal ones have alike."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.weights.embedding_files import bundled_embeddings, read_bundled
from pipelines.weights.part_identity import file_stamp

__all__ = ["identify_lora", "read_bundled_embeddings"]


def read_bundled_embeddings(choices: Sequence[tuple[Any, float]]) -> dict[str, Any]:
    """Read the embeddings that LoRAs' files bring along, by the word that a prompt names them with."""
    embeddings: dict[str, Any] = {}
    for source, _ in choices:
        embeddings |= (
            bundled_embeddings(source, "The LoRA") if isinstance(source, Mapping) else read_bundled(Path(source))
        )
    return embeddings


def identify_lora(source: Any, weight: float) -> Hashable:
    """Return what equal LoRAs at equal weights have alike; tensors that came from no file are equal to nothing else."""
    return (object() if isinstance(source, Mapping) else file_stamp(Path(source))), weight

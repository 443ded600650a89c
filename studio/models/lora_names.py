"""LoRAs by the names that people give them."""

from __future__ import annotations

import difflib
from collections.abc import Container, Sequence

from pipelines.core.errors import LoraError
from pipelines.models.catalog_folder import LoraEntry

__all__ = ["find_lora"]


def find_lora(entries: Sequence[LoraEntry], name: str, fitting: Container[str]) -> LoraEntry:
    """Find the LoRA that a prompt or a request names: by its key or by its file's name, capitals or not.

    Args:
        entries: of the catalog.
        name: untrusted.
        fitting: keys of those that are made for the chosen model; no others are named instead.

    Raises:
        LoraError: there is none of this name; the sentence says the nearest names of those that fit.
    """
    loras = {lora.key: lora for lora in entries}
    if name in loras:
        return loras[name]
    file_name = name.removesuffix(".safetensors").lower()
    for lora in loras.values():
        if file_name in (lora.key.lower(), lora.path.stem.lower()):
            return lora
    offered_keys = [key for key in loras if key in fitting]
    matches = difflib.get_close_matches(file_name, [key.lower() for key in offered_keys], 3, 0.5)
    named_keys = [key for key in offered_keys if key.lower() in matches] or offered_keys[:8]
    offer = f"{'Nearest' if matches else 'Known'}: {', '.join(named_keys)}."
    raise LoraError(
        f"There is no LoRA {name[:80]!r} in the models folder. {offer if named_keys else 'None fits this model.'}"
    )

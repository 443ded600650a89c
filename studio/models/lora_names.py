"""LoRAs by the names that people give them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pipelines.core.errors import LoraError
from pipelines.models.catalog_folder import LoraEntry

__all__ = ["find_lora"]


def find_lora(entries: Sequence[LoraEntry], name: str) -> LoraEntry:
    """Find the LoRA that a prompt or a request names: by its key or by its file's name, capitals or not.

    Args:
        entries: of the catalog.
        name: untrusted.

    Raises:
        LoraError: there is none of this name; the sentence says the nearest names.
    """
    loras = {lora.key: lora for lora in entries}
    if name in loras:
        return loras[name]
    file_name = name.removesuffix(".safetensors").lower()
    for lora in loras.values():
        if file_name in (lora.key.lower(), lora.path.stem.lower()):
            return lora
    matches = difflib.get_close_matches(file_name, [key.lower() for key in loras], 3, 0.5)
    offered_keys = [key for key in loras if key.lower() in matches] or [*loras][:8]
    raise LoraError(
        f"There is no LoRA {name[:80]!r} in the models folder. {'Nearest' if matches else 'Known'}: "
        f"{', '.join(offered_keys) or 'none'}."
    )

"""The VAE of a run in a `parameters` text: A1111 and Forge write its file's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.infotext.fields import Collector

__all__ = ["take_vae", "write_vae"]

_NAME = "VAE"
_OWN = frozenset({"", "none", "automatic", "baked vae", "baked in", "default"})
"""What programs call the VAE that is in the checkpoint, in small letters."""


def write_vae(choice: Mapping[str, object]) -> dict[str, Any]:
    """Write the pair of a VAE of the models folder; none for the model's own."""
    return {_NAME: choice.get("name")} if choice.get("key") == "file" else {}


def take_vae(name: object, collector: Collector) -> None:
    """Take a VAE's name as a program writes it; whether it is here is looked up later."""
    if isinstance(name, str) and name.strip().lower() not in _OWN:
        collector.take_choice("vae", {"key": "file", "name": name.strip()[:200]})

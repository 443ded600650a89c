"""The model families, one a file; `stock` runs every other diffusers pipeline through its own call."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import ModelError
from pipelines.families.base import Family

if TYPE_CHECKING:
    from pipelines.families.latent import LatentFamily

__all__ = ["FAMILIES", "family_of"]

_CLASSES = {"sd": "StableDiffusion", "sdxl": "StableDiffusionXL", "sd3": "StableDiffusion3", "flux": "Flux"}
"""The table: a family's key, which is also its file's name, and its class."""

FAMILIES: dict[str, type[LatentFamily]]
"""Family by key; imported when it is first asked for, since diffusers takes seconds to import."""


def _load_families() -> dict[str, type[LatentFamily]]:
    return {key: getattr(importlib.import_module(f"{__name__}.{key}"), cls) for key, cls in _CLASSES.items()}


def __getattr__(name: str) -> Any:
    if name == "FAMILIES":
        return _load_families()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def family_of(components: Mapping[str, object]) -> Family:
    """Return the family that the components' classes belong to, made from them.

    Args:
        components: as a diffusers pipeline's `components` gives them; "preview", "tiny_vae" and
            "force_zeros_for_empty_prompt" may stand beside them, and "fitted_starts", the folder of what starts need.

    Raises:
        ModelError: no family is made of such components; such a model runs through `stock` only.
    """
    for family in _load_families().values():
        if family.fits(components):
            return family(components)
    networks = ("unet", "transformer", "prior")
    parts = ", ".join(type(part).__name__ for name, part in components.items() if name in networks)
    raise ModelError(
        f"No family is made of {parts or 'these components'}. Such a model runs through its own pipeline only."
    )

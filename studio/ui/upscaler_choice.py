"""The upscalers that a form offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.upscaling.upscalers import LANCZOS

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["list_upscaler_choices"]


def list_upscaler_choices(studio: Studio) -> list[tuple[str, str]]:
    """Return the label and the key of each upscaler that can be used, plain resampling last."""
    usable = [(entry.key, entry.key) for entry in studio.catalog.upscalers() if not entry.problem]
    return [*usable, ("Lanczos resampling", LANCZOS)]

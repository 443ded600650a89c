"""`/models`: what could be loaded."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

from collections.abc import Callable
from typing import TYPE_CHECKING

from studio.api.listings import list_models

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["endpoint"]


def endpoint(studio: "Studio") -> Callable:
    """Return the function that Gradio offers to programs, with its annotations and docstring."""

    def models() -> dict:
        """List the catalog with where each model is, the LoRAs, and what is in memory."""
        return list_models(studio)

    return models

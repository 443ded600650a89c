"""Upscalers by the names that a person gives: found in the models folder, loaded for a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core.errors import ModelFileError, UnknownMethodError
from pipelines.upscaling.upscalers import LANCZOS, Upscaler, load_upscaler

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["find_upscaler", "load_named_upscaler"]


def find_upscaler(key: str, context: TaskContext) -> Path | None:
    """Find the file of an upscaler; None for resampling, and for a method that names none.

    Raises:
        UnknownMethodError: there is none of this name.
        ModelFileError: it cannot be used.
    """
    if key in ("", LANCZOS):
        return None
    entries = {entry.key: entry for entry in context.catalog.upscalers()}
    if key not in entries:
        raise UnknownMethodError("upscaler", key, [LANCZOS, *entries])
    if entries[key].problem:
        raise ModelFileError(entries[key].problem)
    return entries[key].path


def load_named_upscaler(key: str, context: TaskContext) -> Upscaler | None:
    """Load an upscaler for the studio's device; None for resampling.

    Raises:
        UnknownMethodError, ModelFileError: as `find_upscaler`, or its file cannot be read.
    """
    file = find_upscaler(key, context)
    return load_upscaler(file, context.device) if file else None

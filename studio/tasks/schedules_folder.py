"""Where a person's learned schedules are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["get_schedules_folder"]


def get_schedules_folder(context: TaskContext) -> Path:
    """Return the folder of the learned schedules, in the models folder; it need not exist."""
    return context.catalog.folder / "schedules"

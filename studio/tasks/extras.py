"""Checks of what a request takes from the models folder besides its model and its LoRAs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.models.vaes import find_vae
from pipelines.requests.extras import find_extras

if TYPE_CHECKING:
    from pipelines.core.types import Request
    from studio.tasks.context import TaskContext

__all__ = ["require_extras"]


def require_extras(request: Request, context: TaskContext) -> None:
    """Refuse parts that are not there or that do not fit the request's model, before anything is loaded.

    Raises:
        UnknownMethodError: there is none of this name.
        SettingsError: it does not fit.
    """
    extras = find_extras(request)
    if extras.vae:
        find_vae(context.catalog.vaes(), extras.vae, context.catalog[request.model])

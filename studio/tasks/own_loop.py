"""Whether a model's steps are taken here: asked before a job is queued, and again once the model is loaded."""

from __future__ import annotations

from pipelines.core.errors import MethodFitError
from pipelines.families.base import Family
from pipelines.models.entry import CatalogEntry

__all__ = ["refuse_stock", "require_own_loop"]


def refuse_stock(entry: CatalogEntry, why: str) -> None:
    """Refuse a model that is not loaded yet.

    Args:
        entry: of the model.
        why: the end of the sentence "This model runs through its own pipeline only".

    Raises:
        MethodFitError: its steps are not taken here.
    """
    if entry.family == "stock":
        raise MethodFitError(f"This model runs through its own pipeline only{why}")


def require_own_loop(loaded: object, why: str) -> Family:
    """Return a loaded model whose steps are taken here.

    Args:
        loaded: of the loader.
        why: as for `refuse_stock`.

    Raises:
        MethodFitError: they are not.
    """
    if not isinstance(loaded, Family):
        raise MethodFitError(f"This model runs through its own pipeline only{why}")
    return loaded

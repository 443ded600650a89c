"""What narrows a list of results beside their kind and words, and the order in which they are listed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.types import is_text

__all__ = ["EVERYTHING", "KINDS", "NEWEST", "ORDERS", "ListOptions", "Order"]


@dataclasses.dataclass(frozen=True)
class Order:
    """Describes an order of results.

    Attributes:
        label: on the page.
        terms: columns or expressions of the index, compared as one row value; the last one is the id.
        is_descending: whether the largest row value comes first.
    """

    label: str
    terms: tuple[str, ...]
    is_descending: bool = True

    @property
    def clause(self) -> str:
        """Return what follows ORDER BY."""
        direction = "DESC" if self.is_descending else "ASC"
        return ", ".join(f"{term} {direction}" for term in self.terms)

    @property
    def condition(self) -> str:
        """Return the condition of a result after the one whose id is its only parameter."""
        row = ", ".join(self.terms)
        return f"({row}) {'<' if self.is_descending else '>'} (SELECT {row} FROM result WHERE id = ?)"


NEWEST = "newest"
ORDERS: Mapping[str, Order] = {
    NEWEST: Order("Newest first", ("created", "id")),
    "oldest": Order("Oldest first", ("created", "id"), False),
    "model": Order("By model", ("model = ''", "model", "-created", "id"), False),
    "slowest": Order("Longest sampling first", ("seconds", "created", "id")),
    "steps": Order("Most steps first", ("steps", "created", "id")),
}
"""Name to order; results of one model stand the newest first, and those without a model last."""


@dataclasses.dataclass(frozen=True)
class ListOptions:
    """Narrows and orders a list of results.

    Attributes:
        model: key of the model that made them; "" for every model.
        favorites: whether only favorites are listed.
        order: a name of `ORDERS`.
    """

    model: str = ""
    favorites: bool = False
    order: str = NEWEST

    @classmethod
    def parse(cls, model: object = "", favorites: object = False, order: object = NEWEST) -> ListOptions:
        """Check untrusted values.

        Raises:
            SettingsError: a value of the wrong type, or no such order.
        """
        if not is_text(model):
            raise SettingsError(f"model is {str(model)[:80]!r}, and must be text.")
        if not isinstance(favorites, bool):
            raise SettingsError(f"favorites is {str(favorites)[:80]!r}, and must be true or false.")
        if not isinstance(order, str) or order not in ORDERS:
            raise UnknownMethodError("order", order, ORDERS)
        return cls(model[:400], favorites, order)


KINDS: Mapping[str, str] = {
    "text_to_image": "Text to image",
    "compare": "Compare",
    "comparison": "Comparison sheet",
    "edit": "Edit",
    "compare_edits": "Compared edits",
    "video": "Video",
    "animate": "Video",
    "upscale": "Upscaled",
    "quantize": "Quantize",
}
"""What a result may be, and what it is called."""

EVERYTHING = ListOptions()
"""Lists all results, the newest first."""

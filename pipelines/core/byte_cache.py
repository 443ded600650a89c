"""What was computed last, kept for when it is asked for again, within a budget of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["ByteCache"]

Value = TypeVar("Value")


class ByteCache(Generic[Value]):
    """Keeps the values that were used last; the one that was not used for longest goes first. For one thread.

    Args:
        budget: bytes that all values together may take; 0 keeps none.
    """

    def __init__(self, budget: int):
        self.budget, self.bytes = budget, 0
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def get(self, key: Hashable) -> Value | None:
        """Return the value of an equal key, which is now the one used last; None where it is not kept."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep a value, if it fits the budget by itself.

        Args:
            key: of all that decides the value.
            value: shared with whoever gets it, so nobody may change it.
            size: its bytes.
        """
        if size > self.budget:
            return
        if key in self._values:
            self.bytes -= self._values.pop(key)[1]
        self._values[key] = (value, size)
        self.bytes += size
        while self.bytes > self.budget:
            _, (_, freed) = self._values.popitem(last=False)
            self.bytes -= freed

    def __len__(self) -> int:
        return len(self._values)

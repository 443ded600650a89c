"""A part of the model cache: where it stands, and the load that makes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from pipelines.core.errors import ModelError
from pipelines.core.leases import Wanted

__all__ = ["FREEING", "LOADING", "READY", "RESERVED", "Entry", "Load"]

RESERVED, LOADING, READY, FREEING = "reserved", "loading", "ready", "freeing"


@dataclasses.dataclass(eq=False)
class Entry:
    """Describes a part that counts.

    Attributes:
        want: by which it was asked for first, or is loaded.
        bytes: that it takes, by its estimate until it is loaded.
        last_used: the cache's clock.
        state: "reserved", "loading", "ready" or "freeing".
        pins: how many leases hold it or wait for it.
        drop_when_unpinned: whether it goes when nobody holds it any more.
        object: the loaded part.
    """

    want: Wanted
    bytes: int
    last_used: float
    state: str = RESERVED
    pins: int = 0
    drop_when_unpinned: bool = False
    object: Any = None

    def fill(self, value: Any, size: int) -> None:
        """Take the loaded part, of so many bytes."""
        self.object, self.bytes, self.state = value, size, READY
        # What loads it holds the job that asked, and the network that a quantized one was copied from.
        self.want = dataclasses.replace(self.want, load=_is_loaded)


def _is_loaded(abandoned: Callable[[], bool]) -> Any:
    raise ModelError("This part of a model is loaded already.")


@dataclasses.dataclass(eq=False)
class Load:
    """Says whether a load is over, and what it raised."""

    is_over: bool = False
    error: BaseException | None = None

    def raise_error(self) -> None:
        """Raise what the load raised, if it did, and let go of it."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error

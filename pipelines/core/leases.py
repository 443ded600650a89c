"""What a job asks of the model cache and what it gets back."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["CacheRow", "Lease", "PartKey", "Wanted", "megabytes"]


class PartKey(NamedTuple):
    """A key says what makes two loaded parts the same object.

    Attributes:
        source: the repository, the folder, or the identity of the part's content.
        revision: of the repository; "" for a local folder.
        part: "unet", "vae", ...
        dtype: "float32", ...
        quantization: "" for none.
        device: "cpu", "cuda:0", ...
    """

    source: str
    revision: str = ""
    part: str = ""
    dtype: str = "float32"
    quantization: str = ""
    device: str = "cpu"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A request for a part that a job needs.

    Attributes:
        key: equal keys are one object in memory.
        estimate_bytes: what it will take; better too high than too low.
        load: makes the object; called outside the lock in a thread of its own, once at a time for a key. It is given
            what says whether nobody wants the object any more: then it may raise Cancelled.
        free: called with the object when it leaves the cache; its bytes count until it returns.
        measure: the true bytes of the loaded object, which correct the estimate.
    """

    key: PartKey
    estimate_bytes: int
    load: Callable[[Callable[[], bool]], object]
    free: Callable[[Any], None] | None = None
    measure: Callable[[Any], int] | None = None


class CacheRow(NamedTuple):
    """Describes one part for a memory bar: `last_used` is the cache's clock, `state` reserved, loading, ready or
    freeing."""

    key: PartKey
    bytes: int
    pins: int
    last_used: float
    state: str


class Lease(Mapping[PartKey, Any]):
    """Holds a job's parts, key to object. Nothing in it is evicted until it is closed."""

    def __init__(self, objects: Mapping[PartKey, object], release: Callable[[], None]):
        self._objects = dict(objects)
        self._release = release
        self._closing = threading.Lock()

    def __getitem__(self, key: PartKey) -> Any:
        return self._objects[key]

    def __iter__(self) -> Iterator[PartKey]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the parts back; a second call does nothing."""
        if self._closing.acquire(blocking=False):
            self._objects.clear()
            self._release()


def megabytes(count: int) -> str:
    """Write a number of bytes as a person reads it: "512 MB", "6.9 GB"."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"

"""How far a load is, and when it is to end."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.models.load_request import LoadRequest

__all__ = ["LoadProgress", "Progress", "report_stage"]

Progress = Callable[[str, int, int], None]
"""Called with what is going on ("Downloading", "Loading"), bytes done and bytes in all."""


class LoadProgress:
    """Counts the bytes of the parts that were loaded, and holds what a load of a quantized part needs.

    Args:
        progress: called as parts are done; None for no one.
        total: bytes of all parts.
        cancelled: whether whoever asked has stopped.
        request: what is loaded.
    """

    def __init__(
        self,
        progress: Progress | None,
        total: int,
        cancelled: Callable[[], bool],
        request: LoadRequest,
    ):
        self.progress, self.total, self.done = progress, total, 0
        self.cancelled, self.request = cancelled, request

    def ends(self, abandoned: Callable[[], bool]) -> bool:
        """Say whether a load is to end: nobody wants the part, or the network that is copied is let go."""
        return abandoned() or (self.request.source is not None and self.cancelled())

    def add(self, count: int) -> None:
        """Count the bytes of a part that is loaded."""
        self.done += count
        if self.progress:
            self.progress("Loading", self.done, self.total)


def report_stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    """Return the callback for one part's bytes, done and in all; None where there is no listener."""
    return progress and (lambda done, total: progress(stage, done, total))

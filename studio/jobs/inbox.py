"""What a page tells a job that runs: the latest frame, and settings that have changed. Nothing queues up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Inbox"]


class Inbox:
    """Holds at most one frame, the newest, and at most one change of settings, all that was said since the last look.

    Args:
        clock: for tests.

    Attributes:
        received, replaced: frames that came, and those of them that a newer one has overtaken.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._condition = threading.Condition()
        self._clock = clock
        self._frame: bytes | None = None
        self._said: dict[str, Any] = {}
        self._last_heard = clock()
        self.received = self.replaced = 0

    def put_frame(self, frame: bytes) -> int:
        """Leave a frame, in the place of one that was not taken yet; returns its number, from 1."""
        with self._condition:
            self.replaced += self._frame is not None
            self.received += 1
            self._frame, self._last_heard = frame, self._clock()
            self._condition.notify_all()
            return self.received

    def say(self, values: Mapping[str, object]) -> None:
        """Leave changed settings; those of one name replace each other. None at all says that the page is there."""
        with self._condition:
            self._said |= values
            self._last_heard = self._clock()
            if values:
                self._condition.notify_all()

    def holds(self, number: int) -> bool:
        """Say whether a frame still waits."""
        with self._condition:
            return self._frame is not None and self.received == number

    def take(self, seconds: float = 0.0) -> tuple[bytes | None, dict[str, Any]]:
        """Take the frame, None where there is no new one, and the changed settings.

        Args:
            seconds: to wait for either.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._frame is not None or bool(self._said), seconds)
            frame, said = self._frame, self._said
            self._frame, self._said = None, {}
            self._condition.notify_all()
            return frame, said

    @property
    def silent_seconds(self) -> float:
        """Tell for how long nothing was heard of the page."""
        with self._condition:
            return self._clock() - self._last_heard

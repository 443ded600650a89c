"""How the server ends: within five seconds, with status 0, after everybody who watches a job was informed."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from gradio import Blocks

__all__ = ["EXIT_SECONDS", "Stopping", "end_process", "let_streams_end"]

EXIT_SECONDS = 4.5
"""After which the process ends whatever still hangs: results are written whole or not at all, so nothing breaks."""

_POLL_SECONDS = 0.05


class Stopping:
    """Notices Ctrl+C and a termination signal while the context lasts; further ones change nothing.

    From the first on, the process ends with status 0 after `EXIT_SECONDS` at the latest.
    """

    def __init__(self) -> None:
        self._noticed = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._noticed.is_set():  # else a second Ctrl+C would break off what is being closed
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def wait(self) -> None:
        """Wait for a signal."""
        # With a timeout, since on Windows a bare wait does not notice Ctrl+C.
        while not self._noticed.wait(0.5):
            pass

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if not self._noticed.is_set():
            self._noticed.set()
            threading.Thread(target=_end_late, name="stepwise-exit", daemon=True).start()


def _end_late() -> None:
    time.sleep(EXIT_SECONDS)
    end_process()


def end_process() -> NoReturn:
    """End the process with status 0, without taking the interpreter apart: with PyTorch and gradio loaded that takes
    seconds of a busy machine, and threads that are still in PyTorch's code abort it."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def let_streams_end(demo: Blocks, seconds: float) -> None:
    """Wait until gradio has delivered the ends of its events, or the seconds are over.

    Its queue tells whoever still listens that the server stopped unexpectedly, so it is closed only after that.
    """
    queue = getattr(demo, "_queue", None)
    until = time.monotonic() + seconds
    time.sleep(min(0.2, seconds))  # the page's own streams end by themselves, a sixth of a second after their job
    while queue is not None and any(queue.pending_event_ids_session.values()) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)

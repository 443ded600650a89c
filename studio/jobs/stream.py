"""From a job's events to page updates: latest wins, at most six a second.

`follow` is for threads (programs, the command line), `watch` for the server's event loop, where a reader holds no
thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

from studio.jobs.job import Job, View

__all__ = ["follow", "watch"]

PREVIEWS_A_SECOND = 6
HEARTBEAT = 0.5
"""Seconds after which an unchanged job is shown again, since its clock and its place in the queue move."""


def follow(job: Job, per_second: float = PREVIEWS_A_SECOND) -> Iterator[View]:
    """Views of a job until it is over; the last one is final and comes without delay.

    The iterator only reads: dropping it leaves the job running. Views that nobody had time for are skipped.

    Args:
        job: queued, running or finished; a finished one gives exactly one view.
        per_second: the most views a second.
    """
    version = -1
    while True:
        view = job.wait(version, HEARTBEAT)
        yield view
        if view.status.final:
            return
        # The first preview is not kept waiting: until there is one, a view follows as soon as something has changed.
        version = _pause(job, view, time.monotonic() + 1 / per_second) if _has_frames(view) else view.version


def _has_frames(view: View) -> bool:
    return any(cell.frames for cell in view.cells)


def _pause(job: Job, view: View, until: float) -> int:
    """Let time pass until the next view may be shown, or the job is over; the version already shown."""
    latest = view.version
    while not job.status.final and (remaining := until - time.monotonic()) > 0:
        latest = job.wait(latest, remaining).version
    return view.version


async def watch(job: Job, per_second: float = PREVIEWS_A_SECOND) -> AsyncIterator[View]:
    """`follow` for an event loop: the same views at the same pace, without a thread for each reader."""
    loop, change = asyncio.get_running_loop(), asyncio.Event()

    def set_change() -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended before the job
            loop.call_soon_threadsafe(change.set)

    forget = job.listen(set_change)
    try:
        while True:
            change.clear()
            view = job.view()
            yield view
            if view.status.final:
                return
            await _wait_for_change(change, HEARTBEAT)
            end = loop.time() + 1 / per_second if _has_frames(view) else 0.0
            while not job.status.final and (remaining := end - loop.time()) > 0:
                change.clear()
                await _wait_for_change(change, remaining)
    finally:
        forget()


async def _wait_for_change(change: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(change.wait(), seconds)

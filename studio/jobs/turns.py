"""Whose job runs next: of those who wait, the person whose jobs have taken the least time of the device so far.

Start-time fair queueing of one device: a person's tag is the device time that their jobs took, and whoever comes anew
begins at the tag of the job that runs, so that time in which somebody asked for nothing is not saved up. A person's own
jobs keep their order, and with one person the queue is first in, first out.

Source: Goyal, Vin, Cheng, Start-time Fair Queueing, IEEE/ACM Transactions on Networking 5(5), 1997, section II.
Differs: a job is charged when it ends, with the time that it took, since no estimate of it is to be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

__all__ = ["Turns"]


class _HasOwner(Protocol):
    owner: str


Waiting = TypeVar("Waiting", bound=_HasOwner)


class Turns:
    """Keeps device time by owner; not safe to use from many threads at once."""

    def __init__(self) -> None:
        self._tags: dict[str, float] = {}
        self._virtual = 0.0

    def arrive(self, owner: str, is_active: bool) -> None:
        """Note a new job.

        Args:
            owner: whose it is.
            is_active: whether another of their jobs waits or runs.
        """
        if not is_active:
            self._tags[owner] = max(self._tags.get(owner, 0.0), self._virtual)
        self._tags.setdefault(owner, self._virtual)

    def choose(self, waiting: Sequence[Waiting]) -> Waiting:
        """Choose the job that runs next.

        Args:
            waiting: at least one, in the order in which they came.
        """
        next_job = min(waiting, key=lambda job: self._tags.get(job.owner, self._virtual))
        self._virtual = max(self._virtual, self._tags.get(next_job.owner, self._virtual))
        return next_job

    def charge(self, owner: str, seconds: float) -> None:
        """Count the time of the device that a job took, in seconds."""
        self._tags[owner] = self._tags.get(owner, self._virtual) + seconds

    def forget(self, active: set[str]) -> None:
        """Drop the owners who have no job any more and are owed nothing."""
        self._tags = {owner: tag for owner, tag in self._tags.items() if owner in active or tag > self._virtual}

    def order(self, waiting: Sequence[Waiting], seconds: Callable[[Waiting], float]) -> list[Waiting]:
        """Order the jobs as they would run, if nobody came and each took as long as is guessed.

        Args:
            waiting: in the order in which they came.
            seconds: the guess for a job.
        """
        tags, remaining, ordered = dict(self._tags), list(waiting), []
        while remaining:
            next_job = min(remaining, key=lambda job: tags.get(job.owner, self._virtual))
            remaining.remove(next_job)
            ordered.append(next_job)
            tags[next_job.owner] = tags.get(next_job.owner, self._virtual) + seconds(next_job)
        return ordered

"""Streams of the stand-in device: what is used before another stream has written it, or let go while one reads it.

Vector clocks, as in PyTorch's CUDA sanitizer: a stream counts its operations, and knows how far it has waited for the
others. The host waits like a stream, and what it launches comes behind all that it has waited for. Nothing is watched
until the first side stream is made, so that tests without streams pay nothing.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch

__all__ = ["StandInStream", "StreamRace", "Streams"]

_DEFAULT = 0
Clock = dict[int, int]


class StreamRace(RuntimeError):
    """Raised where two streams use memory without waiting for each other."""


@dataclasses.dataclass
class _Use:
    """What was done with a piece of memory.

    Attributes:
        home: the stream that it was allocated on, whose later allocations may take it once it is let go.
        written: stream and number of the last operation that wrote it.
        read: of each stream, the number of the last one that read it.
        recorded: streams that were named by `record_stream`.
    """

    home: int
    written: tuple[int, int]
    read: Clock = dataclasses.field(default_factory=dict)
    recorded: set[int] = dataclasses.field(default_factory=set)


class Streams:
    """The streams of a device and what they did.

    Attributes:
        is_watching: whether there is a side stream.
        races: sentences about memory that was let go too early, which nobody can be told while it goes.
    """

    def __init__(self) -> None:
        self.is_watching = False
        self.races: list[str] = []
        self.host: Clock = {}
        self._clocks: dict[int, Clock] = {_DEFAULT: {_DEFAULT: 1}}
        self._uses: dict[int, _Use] = {}
        self._held: collections.Counter[int] = collections.Counter()
        self._threads = threading.local()

    @property
    def current(self) -> int:
        """The stream of this thread."""
        return getattr(self._threads, "current", _DEFAULT)

    @contextlib.contextmanager
    def applied(self, stream: StandInStream | None) -> Iterator[None]:
        """Make a stream the current one of this thread."""
        before, self._threads.current = self.current, _DEFAULT if stream is None else stream.number
        try:
            yield
        finally:
            self._threads.current = before

    def add(self) -> int:
        """Make a side stream; its number."""
        self.is_watching = True
        number = len(self._clocks)
        self._clocks[number] = {number: 1}
        return number

    def reach(self, stream: int) -> Clock:
        """The moment behind all that a stream was given, for an event."""
        return dict(self._clocks[stream])

    def wait(self, stream: int | None, moment: Clock) -> None:
        """Let a stream, or the host (None), wait for a moment."""
        clock = self.host if stream is None else self._clocks[stream]
        for one, number in moment.items():
            clock[one] = max(clock.get(one, 0), number)

    def launch(self, name: str, reads: Iterable[int], writes: Iterable[int] = ()) -> None:
        """Take note of an operation on the current stream.

        Args:
            name: of the operation.
            reads, writes: addresses of memory that is there.

        Raises:
            StreamRace: another stream has not been waited for.
        """
        stream = self.current
        self.wait(stream, self.host)
        clock = self._clocks[stream]
        number = clock[stream] + 1
        written = set(writes)
        for place in {*reads, *written}:
            use = self._uses.setdefault(place, _Use(_DEFAULT, (_DEFAULT, 1)))
            self._require(name, clock, use.written, "was written")
            if place in written:
                for reader, last in use.read.items():
                    self._require(name, clock, (reader, last), "is read")
                use.written, use.read = (stream, number), {}
            else:
                use.read[stream] = number
        clock[stream] = number

    def has_passed(self, done: tuple[int, int]) -> bool:
        """Whether the host knows that an operation, (stream, number), is done."""
        return self.host.get(done[0], 0) >= done[1]

    def last(self) -> tuple[int, int]:
        """The last operation of the current stream."""
        return self.current, self._clocks[self.current][self.current]

    def synchronize(self) -> None:
        """Let the host wait for all streams."""
        for stream in list(self._clocks):
            self.wait(None, self.reach(stream))

    def _require(self, name: str, clock: Clock, done: tuple[int, int], what: str) -> None:
        stream, number = done
        if clock.get(stream, 0) < number:
            raise StreamRace(
                f"{name} on stream {self.current} uses what {what} on stream {stream}, and has not waited for it"
            )

    def hold(self, tensor: Any, place: int, is_new: bool = False) -> None:
        """Count a tensor for as long as it is there; new memory was written by the current stream's last operation."""
        if is_new and not self._held[place]:
            self._uses[place] = _Use(self.current, self.last())
        self._held[place] += 1
        weakref.finalize(tensor, self._drop, place)

    def record(self, place: int, stream: StandInStream) -> None:
        """Keep memory until a stream has done what it was given."""
        if place in self._uses:
            self._uses[place].recorded.add(stream.number)

    def _drop(self, place: int) -> None:
        self._held[place] -= 1
        if self._held[place] > 0 or place not in self._uses:
            return
        use = self._uses.pop(place)
        home = {**self._clocks[use.home]}
        for one, number in self.host.items():
            home[one] = max(home.get(one, 0), number)
        for stream, number in (*use.read.items(), use.written):
            if stream != use.home and stream not in use.recorded and home.get(stream, 0) < number:
                self.races.append(
                    f"memory of stream {use.home} was let go while stream {stream} uses it: name that by record_stream"
                )


class StandInStream:
    """A stream of the stand-in, as `torch.cuda.Stream` is used."""

    def __init__(self, streams: Streams, number: int | None = None):
        self.streams = streams
        self.number = streams.add() if number is None else number

    def wait_stream(self, other: StandInStream) -> None:
        self.streams.wait(self.number, self.streams.reach(other.number))

    def wait_event(self, event: Any) -> None:
        self.streams.wait(self.number, event.moment)

    def record_event(self, event: Any = None) -> Any:
        event = torch.cuda.Event() if event is None else event
        event.record(self)
        return event

    def synchronize(self) -> None:
        self.streams.wait(None, self.streams.reach(self.number))

    def query(self) -> bool:
        return False

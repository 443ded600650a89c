"""Live mode in the worker: takes the newest frame, advances the stream batch, shows the newest picture."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import SettingsError, StepwiseError
from pipelines.core.types import Request
from pipelines.requests.text_to_image import resolve
from pipelines.workflows.live.autoencoder import quick_autoencoder
from pipelines.workflows.live.request import LiveRequest
from pipelines.workflows.live.similarity import SimilarityFilter
from pipelines.workflows.live.stream import LiveStream, fit_picture
from studio.jobs.inbox import Inbox
from studio.jobs.job import Cell, Job, JobStatus, SteppedAside
from studio.tasks.own_loop import refuse_stock, require_own_loop
from studio.tasks.pictures import read_picture
from studio.tasks.runs.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["CHANGEABLE", "LiveSession", "parse", "read_change", "run"]

_STOCK = " and has no live mode. Choose another."

CHANGEABLE = ("prompt", "seed", "strength", "similarity", "guidance")
"""What a running session takes over; everything else needs another one."""

_SILENCE = 20.0
"""Seconds after which a page that says nothing is taken to be gone. It speaks every five."""

_TURN = 1.0
"""Seconds that a session keeps the device for itself while other jobs wait."""

_KEPT = 100
"""Saved pictures whose ids a session remembers."""

_WAIT = 0.1
_SPAN, _PAUSE = 3.0, 2.0
"""Seconds over which frames are counted, and after which the counting begins anew."""


@dataclasses.dataclass
class LiveSession:
    """A live request and what its page says while it runs.

    Attributes:
        live: the settings as they stand.
        inbox: of the page.
        picture: the newest input (H, W, 3), uint8, which a session that had stepped aside begins with.
        frames: pictures shown so far.
    """

    live: LiveRequest
    inbox: Inbox = dataclasses.field(default_factory=Inbox)
    picture: np.ndarray | None = None
    frames: int = 0

    @property
    def base(self) -> Request:
        """The text-to-image request."""
        return self.live.base


def parse(values: Mapping[str, object], context: TaskContext) -> LiveSession:
    """Read untrusted values: see `Task.parse`."""
    context.require_live()
    live = LiveRequest.parse(values, lambda plain: parse_request(plain, context))
    refuse_stock(context.catalog[live.base.model], _STOCK)
    return LiveSession(live)


def read_change(session: LiveSession, values: Mapping[str, object], context: TaskContext) -> LiveRequest:
    """Read what a page wants changed while its session runs.

    Args:
        session: that runs.
        values: untrusted, of `CHANGEABLE`.
        context: knows the models and the caps.

    Raises:
        SettingsError: the first thing that is wrong.
    """
    if unknown := [name for name in values if name not in CHANGEABLE]:
        raise SettingsError(f"{unknown[0]!r} cannot change while live mode runs. Stop it, and start it anew.")
    plain = session.live.to_json()
    base = {**plain.pop("base"), **{name: values[name] for name in ("prompt", "seed", "guidance") if name in values}}
    own = {name: value for name, value in values.items() if name not in base}
    return LiveRequest.parse({**plain, **own, "base": base}, lambda inner: parse_request(inner, context))


def run(session: LiveSession, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job: see `Task.run`."""
    with context.model(session.base.model, job) as loaded:
        family = require_own_loop(loaded, _STOCK)
        resolved = resolve(session.base, family)
        with family.loras(context.load_loras(session.base.loras)), quick_autoencoder(family):
            if not job.view().cells:
                job.set_cells([Cell()])
            job.set_status(JobStatus.RUNNING)
            _LiveRun(session, job, context, LiveStream(family, session.live, resolved, job.cancelled)).run()


class _LiveRun:
    """One stay of a session on the device."""

    def __init__(self, session: LiveSession, job: Job, context: TaskContext, stream: LiveStream):
        self.session, self.job, self.context, self.stream = session, job, context, stream
        self.live = session.live
        self.filter = self._build_filter()
        self.started = time.monotonic()
        self.shown_at: collections.deque[float] = collections.deque(maxlen=256)
        self.shown: np.ndarray | None = None
        self.note = ""
        self.fps: float | None = None
        if session.picture is not None:
            self.stream.begin(session.picture)

    def _build_filter(self) -> SimilarityFilter:
        settings = self.session.live.settings
        return SimilarityFilter(settings.similarity, settings.most_skipped)

    def run(self) -> None:
        """Go on until the page is gone, the time is over, or other jobs wait.

        Raises:
            Cancelled: it was stopped.
            SteppedAside: others wait.
        """
        try:
            while not self.job.cancelled():
                self._advance()
                if self.session.inbox.silent_seconds > _SILENCE:
                    return self._tell("Live mode has ended: nothing was heard of its page.")
            raise Cancelled
        except Cancelled:
            if not self.job.is_out_of_time:
                raise
            self._tell("Live mode ends after the longest time that one run may take here. Start it again to go on.")

    def _advance(self) -> None:
        frame, said = self.session.inbox.take(0.0 if self.stream.in_flight else _WAIT)
        if said:
            self._change(said)
        if frame is not None:
            self._begin(frame)
        picture = self.stream.tick()
        if picture is not None:
            self._show(picture)
        had_its_turn = not self.stream.in_flight or time.monotonic() - self.started > _TURN
        if had_its_turn and self.context.has_waiting():
            raise SteppedAside

    def _change(self, said: dict[str, Any]) -> None:
        if "save" in said:
            self._save()
        live = said.get("live")
        if live is None or live == self.live:
            return
        self.stream.change(live)
        if live.settings.similarity != self.live.settings.similarity:
            self.filter = self._build_filter()
        self.live = live
        if self.session.picture is not None:
            self.stream.begin(self.session.picture)

    def _begin(self, frame: bytes) -> None:
        try:
            pixels = read_picture(frame).pixels
        except StepwiseError as error:
            self._tell(str(error))
            return
        self._tell("")
        pixels = fit_picture(pixels, self.stream.size)  # a camera's is larger than what is worth keeping
        if self.filter.passes(pixels):
            self.session.picture = pixels
            self.stream.begin(pixels)

    def _tell(self, note: str) -> None:
        if note != self.note:
            self.note = note
            self.job.update_cell(0, note=note)

    def _show(self, picture: np.ndarray) -> None:
        self.shown = picture
        released = self.context.release_pictures(picture[None], self.session.base.model, self.job)
        now, inbox = time.monotonic(), self.session.inbox
        if self.shown_at and now - self.shown_at[-1] > _PAUSE:
            self.shown_at.clear()  # nothing was drawn meanwhile
        self.shown_at.append(now)
        while self.shown_at[0] < now - _SPAN:
            self.shown_at.popleft()
        self.session.frames += 1
        figures = {
            "frames": self.session.frames,
            "fps": self._count_frames_a_second(),
            "in_flight": self.stream.in_flight,
            "overtaken": inbox.replaced,
            "skipped": self.filter.skipped,
        }
        self.job.update_cell(0, images=released, figures=figures)

    def _count_frames_a_second(self) -> float | None:
        """Over the last seconds in which something changed."""
        times = self.shown_at
        if len(times) > 1 and times[-1] > times[0]:
            self.fps = (len(times) - 1) / (times[-1] - times[0])
        return self.fps

    def _save(self) -> None:
        if self.shown is None:
            return
        values = {name: value for name, value in self.live.to_json().items() if name != "base"}
        result = self.context.save_picture(self.shown, self.live.base, self.job, figures={"live": values})
        cell = self.job.view().cells[0]
        self.job.update_cell(0, results=(*cell.results, result)[-_KEPT:])

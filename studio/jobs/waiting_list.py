"""The queued jobs on the disk, so that those who wait are there again when the studio starts the next time.

A row is written when a job is queued and goes when it starts: a run that was in the middle of its work when the program
was killed does not begin again by itself, since it may be what killed it. One program at a time keeps a folder's list,
by SQLite's own exclusive lock, which goes with the process however it ends.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.core.types import Choice

__all__ = ["WaitingJob", "WaitingList", "dump_values", "load_values"]

_LOG = logging.getLogger("stepwise.engine")
_KIND = "$stepwise"
_LARGEST = 64 * 2**20
"""Characters of a job's values: a few large pictures."""


@dataclasses.dataclass(frozen=True)
class WaitingJob:
    """Describes a job that was queued when the program ended.

    Attributes:
        id: of the job, by which a page finds it again.
        task: key of the task table.
        owner: opaque id of whoever asked.
        values: of the request, as they were sent.
    """

    id: str
    task: str
    owner: str
    values: Mapping[str, Any]


class WaitingList:
    """Keeps queued jobs; safe to use from many threads.

    Where the file cannot be used (another studio keeps it, the disk is full) nothing is kept, and the log says so: a
    run is not refused because it would not survive a restart.

    Args:
        path: of the SQLite file; made if missing.
    """

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()
        self._identity: tuple[int, int] | None = None
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection | None:
        try:
            connection = sqlite3.connect(self._path, timeout=0.5, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                connection.execute("PRAGMA synchronous = OFF")  # it is to survive the program, not a power cut
                connection.execute("BEGIN EXCLUSIVE")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS waiting (number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, "
                    "task TEXT NOT NULL, owner TEXT NOT NULL, created REAL NOT NULL, content TEXT NOT NULL)"
                )
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
            self._identity = self._identify()
            return connection
        except sqlite3.Error as error:
            _LOG.warning("Queued jobs will not survive a restart: %s cannot be used (%s).", self._path.name, error)
            return None

    def _identify(self) -> tuple[int, int] | None:
        """What tells the file from another of its name; None where there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _follow_file(self) -> None:
        """Make the file again where somebody has deleted it while the program runs, with all that was in it; the lock
        is held."""
        if self._connection is None or self._identify() == self._identity:
            return
        rows: list[tuple[object, ...]] = []
        with contextlib.suppress(sqlite3.Error):  # the deleted file can still be read as long as it is open
            rows = self._connection.execute("SELECT * FROM waiting ORDER BY number").fetchall()
        self._connection.close()
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = self._open()
        if self._connection is not None:
            self._connection.executemany("INSERT OR IGNORE INTO waiting VALUES (?, ?, ?, ?, ?, ?)", rows)

    def add(self, job: WaitingJob) -> bool:
        """Keep a job; returns whether it is kept."""
        try:
            content = json.dumps(dump_values(job.values), ensure_ascii=True)
        except (TypeError, ValueError, OSError) as error:
            _LOG.info("job %s will not survive a restart: %s", job.id, error)
            return False
        if len(content) > _LARGEST:
            _LOG.info("job %s will not survive a restart: its pictures are too large", job.id)
            return False
        row = (job.id, job.task, job.owner, time.time(), content)
        return self._change(
            "INSERT OR REPLACE INTO waiting (id, task, owner, created, content) VALUES (?, ?, ?, ?, ?)", row
        )

    def holds(self, job_id: str) -> bool:
        """Say whether a job will be there at the next start."""
        with self._lock:
            try:
                self._follow_file()
                if self._connection is None:
                    return False
                row = self._connection.execute("SELECT 1 FROM waiting WHERE id = ?", (job_id,)).fetchone()
            except sqlite3.Error as error:
                _LOG.warning("The list of queued jobs cannot be read (%s).", error)
                return False
        return row is not None

    def remove(self, job_id: str) -> None:
        """Forget a job that has started or was stopped."""
        self._change("DELETE FROM waiting WHERE id = ?", (job_id,))

    def take(self) -> list[WaitingJob]:
        """Take out the kept jobs, in the order in which they came; they are no longer kept."""
        with self._lock:
            if self._connection is None:
                return []
            try:
                rows = self._connection.execute("SELECT id, task, owner, content FROM waiting ORDER BY number")
                waiting_jobs = list(_readable(rows))
                self._connection.execute("DELETE FROM waiting")
            except sqlite3.Error as error:
                _LOG.warning("The queued jobs of the last run cannot be read (%s).", error)
                return []
        return waiting_jobs

    def close(self) -> None:
        """Let the file go, with what is in it."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _change(self, statement: str, values: tuple[object, ...]) -> bool:
        with self._lock:
            try:
                self._follow_file()
                if self._connection is None:
                    return False
                self._connection.execute(statement, values)
            except sqlite3.Error as error:
                _LOG.warning("The list of queued jobs cannot be written (%s).", error)
                return False
        return True


def _readable(rows: Any) -> Iterator[WaitingJob]:
    for job_id, task, owner, content in rows:
        with contextlib.suppress(ValueError, TypeError, KeyError, OSError):  # of another version
            values = load_values(json.loads(content))
            if isinstance(values, dict):
                yield WaitingJob(job_id, task, owner, values)


def dump_values(value: object) -> Any:
    """Write a request's values as plain JSON: pictures become PNG, arrays NumPy's own format, methods their key and
    settings.

    Raises:
        TypeError: there is something else among them.
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(name): dump_values(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump_values(inner) for inner in value]
    if isinstance(value, Choice):
        return {_KIND: "choice", "key": value.key, "settings": dump_values(value.settings)}
    buffer = io.BytesIO()
    if isinstance(value, Image.Image):
        value.save(buffer, "PNG", compress_level=1, icc_profile=value.info.get("icc_profile"))
        return {_KIND: "picture", "data": base64.b64encode(buffer.getvalue()).decode()}
    if isinstance(value, (np.ndarray, np.generic)):
        np.save(buffer, np.asarray(value), allow_pickle=False)
        return {_KIND: "array", "data": base64.b64encode(buffer.getvalue()).decode()}
    raise TypeError(f"a {type(value).__name__} cannot be kept")


def load_values(value: object) -> Any:
    """Read what `dump_values` was given.

    Raises:
        ValueError, KeyError, OSError: it is not of its making.
    """
    if isinstance(value, list):
        return [load_values(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {name: load_values(inner) for name, inner in value.items()}
    if kind == "choice":
        return Choice(value["key"], load_values(value["settings"]))
    data = io.BytesIO(base64.b64decode(value["data"], validate=True))
    if kind == "picture":
        with Image.open(data, formats=("PNG",)) as picture:
            picture.load()
            return picture.copy()
    return np.load(data, allow_pickle=False)

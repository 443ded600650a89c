"""Gradio's temporary folder: our own, pruned by age and by bytes.

Gradio writes every upload and every picture a handler returns into it and deletes none of them.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import StoreError
from studio.safety.limits import Limits

__all__ = ["Pruned", "TempFolder", "claim", "default_temp"]

_MARKER = ".stepwise-temporary"
_GRACE = 600.0  # seconds in which a file may still be being written or looked at


def default_temp() -> Path:
    """The temporary folder of this person.

    Returns:
        `stepwise/gradio` below the user's cache folder; it need not exist.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "stepwise" / "gradio"


@dataclass(frozen=True)
class Pruned:
    """What one pruning did.

    Args:
        files: deleted.
        freed: bytes of those.
        left: bytes still in the folder.
    """

    files: int
    freed: int
    left: int


class TempFolder:
    """A folder whose old files are deleted. Nothing outside it is, and no link is followed.

    Args:
        root: the folder; made where it is missing.
        limits: its age and bytes.
        clock: seconds since 1970.
        keep: names the files that must stay, such as examples shown on the page.

    Raises:
        StoreError: the folder holds files and is not one that was made here, or it cannot be
            made.
    """

    def __init__(
        self,
        root: Path,
        limits: Limits,
        clock: Callable[[], float] = time.time,
        keep: Callable[[], Collection[str]] = tuple,
    ):
        self.root, self.keep = claim(root), keep
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._added = self._left = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def prune(self) -> Pruned:
        """Deletes what is too old, then the oldest until the rest fits.

        Files younger than ten minutes stay even where the folder is over its bytes.

        Returns:
            What was done.
        """
        with self._lock:
            files = sorted(self._files())
            now, kept = self._clock(), set(self.keep())
            left = sum(size for _, size, _ in files)
            deleted = freed = 0
            for touched, size, path in files:
                too_old = now - touched > self._limits.temp_age
                too_much = left > self._limits.temp_bytes and now - touched > _GRACE
                if path in kept or not (too_old or too_much):
                    continue
                with suppress(OSError):
                    os.unlink(path)
                    deleted, freed, left = deleted + 1, freed + size, left - size
            self._drop_empty(now)
            self._added, self._left = 0, left
            return Pruned(deleted, freed, left)

    def _files(self) -> list[tuple[float, int, str]]:
        found = []
        for folder, folders, names in os.walk(self.root, followlinks=False):
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in [*names, *links]:
                path = os.path.join(folder, name)
                if path == str(self.root / _MARKER):
                    continue
                with suppress(OSError):
                    info = os.lstat(path)
                    # A copy keeps the time of its original; only the other time is its own.
                    found.append((max(info.st_mtime, info.st_ctime), info.st_size, path))
        return found

    def _drop_empty(self, now: float) -> None:
        for folder, _, _ in os.walk(self.root, topdown=False, followlinks=False):
            if folder == str(self.root):
                continue
            with suppress(OSError):  # one that is not empty stays
                if now - os.lstat(folder).st_mtime > _GRACE:
                    os.rmdir(folder)

    def add(self, count: int) -> bool:
        """Counts an upload, and prunes when much has come since the last time.

        Args:
            count: bytes that were stored.

        Returns:
            Whether there is room for more.
        """
        with self._lock:
            self._added += count
            is_due = self._added > self._limits.temp_bytes // 8
            is_full = self._left + self._added > self._limits.temp_bytes
        if is_due or is_full:
            return self.prune().left <= self._limits.temp_bytes
        return True

    def start(self, every: float = 300.0) -> None:
        """Prunes now, and again and again in a thread of its own.

        Args:
            every: seconds between two prunings.
        """
        self.prune()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, args=(every,), name="temp-folder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, every: float) -> None:
        while not self._stopping.wait(every):
            self.prune()


def claim(root: Path) -> Path:
    """Makes a folder and marks it as ours to delete from.

    Args:
        root: a missing or empty folder, or one that was claimed before.

    Returns:
        The folder with its links followed.

    Raises:
        StoreError: it holds other files, or cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        root = root.resolve()
        marker = root / _MARKER
        if not marker.exists() and any(root.iterdir()):
            raise StoreError(
                f"The temporary folder {root} holds files of something else. "
                "Name an empty folder, since old files in it are deleted."
            )
        marker.touch()
    except OSError as error:
        raise StoreError(f"The temporary folder {root} cannot be used: {error}.") from error
    return root

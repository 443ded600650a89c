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
from studio.safety.limits import ClientLimits

__all__ = ["Pruned", "TempFolder", "claim_folder", "get_default_temp"]

_MARKER = ".stepwise-temporary"
_GRACE = 600.0  # seconds in which a file may still be being written or looked at


def get_default_temp() -> Path:
    """Return the temporary folder of this person.

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
    """Counts what one pruning did.

    Args:
        files: deleted.
        freed_bytes: bytes of those.
        remaining_bytes: bytes still in the folder.
    """

    files: int
    freed_bytes: int
    remaining_bytes: int


class TempFolder:
    """Deletes old files of a folder. Nothing outside it is, and no link is followed.

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
        limits: ClientLimits,
        clock: Callable[[], float] = time.time,
        keep: Callable[[], Collection[str]] = tuple,
    ):
        self.root, self.keep = claim_folder(root), keep
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._added_bytes = self._remaining_bytes = self._reserved_bytes = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def prune(self) -> Pruned:
        """Deletes what is too old, then the oldest until the rest fits.

        Files younger than ten minutes stay even where the folder is over its bytes.

        Returns:
            What was done.
        """
        with self._lock:
            files = sorted(self._list_files())
            current, kept_files = self._clock(), set(self.keep())
            remaining = sum(size for _, size, _ in files)
            deleted = freed = 0
            for touched, size, path in files:
                too_old = current - touched > self._limits.temp_age
                too_much = remaining > self._limits.temp_bytes and current - touched > _GRACE
                if path in kept_files or not (too_old or too_much):
                    continue
                with suppress(OSError):
                    os.unlink(path)
                    deleted, freed, remaining = deleted + 1, freed + size, remaining - size
            self._drop_empty(current)
            self._added_bytes, self._remaining_bytes = 0, remaining
            return Pruned(deleted, freed, remaining)

    def _list_files(self) -> list[tuple[float, int, str]]:
        files = []
        for folder, folders, names in os.walk(self.root, followlinks=False):
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in [*names, *links]:
                path = os.path.join(folder, name)
                if path == str(self.root / _MARKER):
                    continue
                with suppress(OSError):
                    info = os.lstat(path)
                    # A copy keeps the time of its original; only the other time is its own.
                    files.append((max(info.st_mtime, info.st_ctime), info.st_size, path))
        return files

    def _drop_empty(self, current: float) -> None:
        for folder, _, _ in os.walk(self.root, topdown=False, followlinks=False):
            if folder == str(self.root):
                continue
            with suppress(OSError):  # one that is not empty stays
                if current - os.lstat(folder).st_mtime > _GRACE:
                    os.rmdir(folder)

    def add(self, count: int) -> bool:
        """Counts an upload, and prunes when much has come since the last time.

        Args:
            count: bytes that were stored.

        Returns:
            Whether there is room for more.
        """
        with self._lock:
            self._added_bytes += count
            is_due = self._added_bytes > self._limits.temp_bytes // 8
            is_full = self._remaining_bytes + self._added_bytes > self._limits.temp_bytes
        if is_due or is_full:
            return self.prune().remaining_bytes <= self._limits.temp_bytes
        return True

    def reserve(self, count: int) -> bool:
        """Takes room for what is about to be written, so that many at once do not fill the folder together.

        Args:
            count: bytes; negative to give them back.

        Returns:
            Whether there was room. Where there was none, nothing is taken.
        """
        with self._lock:
            self._reserved_bytes += count
            if count <= 0:
                return True
            total_bytes = self._remaining_bytes + self._added_bytes + self._reserved_bytes
        if total_bytes <= self._limits.temp_bytes:
            return True
        has_room = self.prune().remaining_bytes + self._reserved_bytes <= self._limits.temp_bytes
        if not has_room:
            self.reserve(-count)
        return has_room

    def start(self, interval: float = 300.0) -> None:
        """Prunes now, and again and again in a thread of its own.

        Args:
            interval: seconds between two prunings.
        """
        self.prune()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, args=(interval,), name="temp-folder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, interval: float) -> None:
        while not self._stopping.wait(interval):
            self.prune()


def claim_folder(root: Path) -> Path:
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

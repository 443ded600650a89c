"""Files of the results folder: where it is, whole files or none, and what to say when the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pipelines.core.errors import StoreError

__all__ = ["NAME", "explain_disk_errors", "get_default_folder", "move", "remove_partials", "write_atomically"]

NAME = re.compile(r"(\d{8}-\d{6}-[0-9a-f]{12})(\.[a-z0-9]{1,8})\Z")
"""A result's file name: its id and a suffix."""

_OURS = r"\d{8}-\d{6}-[0-9a-f]{12}\.[a-z0-9]{1,8}"
_PARTIAL = re.compile(rf"\.{_OURS}(\.json)?\.[0-9a-f]{{8}}\.part\Z")
_ABOUT = re.compile(rf"({_OURS})\.json\Z")

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_SAY_FULL = (
    "The disk with the results is full: free some space, or set STEPWISE_HOME to a folder on another disk and start "
    "again."
)
_SAY_DENIED = (
    "The results folder cannot be written to: give this program the right to, "
    "or set STEPWISE_HOME to another folder and start again."
)
_SAY_DAMAGED = (
    "The index of results is damaged: remove index.sqlite from the results folder and start again; "
    "it is made anew from the files."
)
_SAY_FAILED = "The results folder cannot be used ({}): check the disk it is on, then try again."
_SAY_BUSY = "The index of results is in use by another program: try again in a moment."


def get_default_folder() -> Path:
    """Return the folder where results go: `outputs` under $STEPWISE_HOME, else under the platform's folder for user
    data."""
    home = os.environ.get("STEPWISE_HOME")
    if home:
        return Path(home).expanduser() / "outputs"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "stepwise" / "outputs"


@contextlib.contextmanager
def explain_disk_errors() -> Iterator[None]:
    """Turn what the disk or SQLite raises into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        sentence = _SAY_FULL if error.errno in _FULL else _SAY_DENIED if error.errno in _DENIED else None
        raise StoreError(sentence or _SAY_FAILED.format(error.strerror)) from error
    except sqlite3.Error as error:
        words = str(error)
        if "full" in words:
            sentence = _SAY_FULL
        elif "readonly" in words or "unable to open" in words:
            sentence = _SAY_DENIED
        elif "locked" in words or "busy" in words:
            sentence = _SAY_BUSY
        elif "malformed" in words or "not a database" in words:
            sentence = _SAY_DAMAGED
        elif "disk I/O" in words:
            sentence = _SAY_FAILED.format(words)
        else:
            raise  # a mistake in our SQL
        raise StoreError(sentence) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut; its folder is made.

    Raises:
        OSError: nothing of the file is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _flush_to_disk(path.parent)


def move(source: Path, target: Path) -> None:
    """Move a file within the store; already moved is as good."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
    except FileNotFoundError:
        if not target.exists():
            raise
    _flush_to_disk(target.parent)
    _flush_to_disk(source.parent)


def remove_partials(folder: Path, older_than: float) -> int:
    """Remove unfinished files, and descriptions of files that never came; returns how many.

    Args:
        folder: one that holds results.
        older_than: seconds since the last write; a younger one may belong to a save that another process is
            in the middle of.
    """
    num_removed = 0
    for path in folder.iterdir():
        beside = _ABOUT.match(path.name)
        if not _PARTIAL.match(path.name) and not (beside and not path.with_name(beside[1]).exists()):
            continue
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_mtime <= time.time() - older_than:
                path.unlink()
                num_removed += 1
    return num_removed


def _flush_to_disk(folder: Path) -> None:
    # The new name is safe only when the folder is on the disk, too; Windows cannot flush one, nor needs it.
    if os.name == "nt" or not folder.exists():
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""When two parts on disk are the same, so that models share them in memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["PartIdentities", "file_stamp"]

SAMPLES, SAMPLE_BYTES = 16, 4096
BLOCK = 1 << 20
HASH_NAME = 64
"""Letters of a SHA-256: the hub's cache names a weight file's blob by the hash of its content."""


class PartIdentities:
    """Gives names for the contents of parts: equal names mean equal files, byte for byte.

    Reading gigabytes to compare them would cost more than loading, so a part is named by the sizes of its files
    and samples of them. Only when a part at another place has the same name are both read in full.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first_stamps: dict[str, tuple] = {}
        self._names: dict[tuple, str] = {}
        self._hashes: dict[tuple, str] = {}

    def name(self, files: Sequence[Path]) -> str:
        """Return the name of these files' content; a changed file has another name.

        Args:
            files: in an order that is the same for equal parts.
        """
        stamp = tuple(file_stamp(path) for path in files)
        with self._lock:
            if stamp not in self._names:
                self._names[stamp] = self._make_name(stamp)
            return self._names[stamp]

    def _make_name(self, stamp: tuple) -> str:
        quick = _hash_parts(part for one in stamp for part in (one[0].encode(), *_read_samples(Path(one[1]), one[2])))
        first = self._first_stamps.setdefault(quick, stamp)
        if first == stamp or (_is_unchanged(first) and self._hash_files(first) == self._hash_files(stamp)):
            return quick
        return f"{quick}-{self._hash_files(stamp)}"

    def _hash_files(self, stamp: tuple) -> str:
        if stamp not in self._hashes:
            self._hashes[stamp] = _hash_parts(
                part for one in stamp for part in (one[0].encode(), _hash_file(Path(one[1])))
            )
        return self._hashes[stamp]


def file_stamp(path: Path) -> tuple[str, str, int, int]:
    """Return (name, place, size, time of change), which stands for the content as long as the process lives."""
    real = path.resolve(strict=True)
    status = real.stat()
    return path.name, str(real), status.st_size, status.st_mtime_ns


def _is_unchanged(stamp: tuple) -> bool:
    try:
        return all(file_stamp(Path(real))[1:] == (real, *rest) for _, real, *rest in stamp)
    except OSError:
        return False


def _read_samples(path: Path, size: int):
    yield str(size).encode()
    with path.open("rb") as file:
        for index in range(SAMPLES):
            file.seek(max(0, (size - SAMPLE_BYTES) * index // (SAMPLES - 1)))
            yield file.read(SAMPLE_BYTES)


def _hash_file(path: Path) -> bytes:
    if len(path.name) == HASH_NAME and all(letter in "0123456789abcdef" for letter in path.name):
        return path.name.encode()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest().encode()


def _hash_parts(parts) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]

"""The lists that __name__ draws from: text files in a folder and the folders in it, a line a choice."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipelines.core.errors import PromptError

__all__ = ["read_lists"]

MAX_BYTES = 16 * 2**20
"""Of one list: no file is read before its size is known."""

MAX_LISTS = 10_000
"""Files that are looked at."""

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class _Lists(Mapping[str, list[str]]):
    """Names to lines; a file is read when its name is asked for."""

    def __init__(self, files: Mapping[str, Path]):
        self._files = files

    def __getitem__(self, name: str) -> list[str]:
        return _read_lines(self._files[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def read_lists(folder: Path) -> Mapping[str, list[str]]:
    r"""Read the lists of a folder's .txt files, by their path below it without the ending, such as "colors/dark red".

    Blank lines and lines that begin with # are left out; one that is to begin with the sign itself begins with \#.
    Files may be UTF-8, UTF-16 with a byte-order mark, or Windows-1252; links that lead out of the folder are not
    followed.

    Raises:
        PromptError: when a list is asked for whose file cannot be read, or is too large.
    """
    root, files = folder.resolve(), {}
    for place, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() == ".txt" and path.resolve().is_relative_to(root) and path.is_file():
                files[path.relative_to(root).with_suffix("").as_posix()] = path
            if len(files) >= MAX_LISTS:
                return _Lists(files)
    return _Lists(files)


def _read_lines(path: Path) -> list[str]:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise PromptError(
                f"The wildcard list {path.name} has {size / 2**20:.0f} MB. At most {MAX_BYTES >> 20} MB are read: "
                "split it."
            )
        data = path.read_bytes()
    except OSError as error:
        raise PromptError(f"The wildcard list {path.name} cannot be read: {error.strerror}.") from error
    lines = [line.strip() for line in _decode(data).splitlines()]
    return [line.removeprefix("\\") if line.startswith("\\#") else line for line in lines if line and line[0] != "#"]


def _decode(data: bytes) -> str:
    """A list's text; what is no UTF-8 is taken for Windows' Western one, which editors there called ANSI."""
    encoding = next((one for mark, one in _MARKS.items() if data.startswith(mark)), "")
    if encoding:
        return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")

"""The rows of a long measurement, written as they come: one that fails says why, and a second start goes on."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["Record", "Section"]


@dataclasses.dataclass(frozen=True)
class Section:
    """Describes a table and the works that make its rows.

    Attributes:
        title: above it.
        head: its first two lines.
        works: what a row is called, and what measures it: it returns one row or several.
    """

    title: str
    head: tuple[str, str]
    works: Sequence[tuple[str, Callable[[], str | list[str]]]]


class Record:
    """Runs works one by one and keeps their rows in a folder.

    Args:
        folder: gets `device.json`, the state, and `device.md`, the tables; both are whole at every moment.
        title: of the machine and the program. Rows of another title are not gone on with.
        minutes: after which no further row is begun.
        release: gives memory back between two rows.
        say: is given each line as it comes.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        minutes: float,
        release: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = print,
    ):
        self.folder, self.title, self._release, self._say = folder, title, release, say
        self._end = time.monotonic() + 60 * minutes
        self._minutes = minutes
        folder.mkdir(parents=True, exist_ok=True)
        self._rows = self._read()

    def run(self, sections: Sequence[Section]) -> int:
        """Measure what is not measured yet; rows that failed are tried again.

        Returns:
            How many rows failed or were left out.
        """
        problems = 0
        self._say(f"{self.title}\n")
        for section in sections:
            self._say("\n".join((f"## {section.title}\n", *section.head)))
            for name, work in section.works:
                key = f"{section.title}: {name}"
                rows = self._rows.get(key) or self._measure(key, name, work, section)
                problems += key not in self._rows
                self._write(sections)
                self._say("\n".join(rows))
            self._say("")
        return problems

    def _measure(self, key: str, name: str, work: Callable[[], str | list[str]], section: Section) -> list[str]:
        cells = section.head[0].count("|") - 1
        if time.monotonic() > self._end:
            return self._fill(key, name, f"left out: the {self._minutes:g} minutes are over", cells)
        try:
            rows = work()
        except Exception as error:  # whatever it is, the rows after it are to come
            reason = (str(error).strip().splitlines() or [""])[0][:200].replace("|", "/")
            return self._fill(key, name, f"failed: {type(error).__name__}: {reason}", cells)
        finally:
            gc.collect()
            self._release()
        self._rows[key] = [rows] if isinstance(rows, str) else rows
        self._problems.pop(key, None)
        return self._rows[key]

    def _fill(self, key: str, name: str, words: str, cells: int) -> list[str]:
        row = "| " + " | ".join([name, words, *[""] * max(0, cells - 2)]) + " |"
        self._problems[key] = [row]
        return [row]

    def _read(self) -> dict[str, list[str]]:
        self._problems: dict[str, list[str]] = {}
        try:
            state = json.loads((self.folder / "device.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return dict(state["rows"]) if state.get("title") == self.title else {}

    def _write(self, sections: Sequence[Section]) -> None:
        _replace(self.folder / "device.json", json.dumps({"title": self.title, "rows": self._rows}, indent=1))
        lines = [self.title]
        for section in sections:
            lines += ["", f"## {section.title}", "", *section.head]
            for name, _ in section.works:
                key = f"{section.title}: {name}"
                lines += self._rows.get(key) or self._problems.get(key, [])
        _replace(self.folder / "device.md", "\n".join(lines) + "\n")


def _replace(file: Path, text: str) -> None:
    fresh = file.with_suffix(".part")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, file)

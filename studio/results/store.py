"""The results: a folder of files with their settings inside, and a SQLite index over it.

The files are what counts; the index can be made again from them. A result is written under a temporary
name, flushed to the disk, moved to its own name, and only then entered in the index, so that a row without
a whole file never exists, whatever moment the program is killed at. Names come from the clock and a random
number, never from a request.

    <folder>/index.sqlite
    <folder>/2026-11-21/20261121-101500-3f9c2a7be1d4.png
    <folder>/2026-11-21/20261121-101502-77ab90c1d2e3.mp4               and ....mp4.json, what it is
    <folder>/trash/...                                                what can still be restored
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.core.errors import StoreError
from studio.infotext.embed import FORMATS, clean, encode
from studio.results.files import default_folder, explained, move, remove_partials, write_atomically
from studio.results.migrations import add_search, migrate
from studio.results.records import ABOUT, NAME, Reconciled, Record, about, facts_in, facts_of, ours

__all__ = ["Reconciled", "Record", "Store", "default_folder"]

PAGE = 1000
"""Records that `Store.list` returns at most."""

_DAY = re.compile(r"\d{4}-\d\d-\d\d\Z")
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}\Z")
_TRASH = "trash"


class Store:
    """Writes results, finds them again, deletes and restores them; safe to use from many threads.

    Args:
        folder: made if missing; by default `default_folder()`.

    Raises:
        StoreError: the folder cannot be written, or its index is damaged or newer than this program.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        with explained():
            self.folder = Path(folder if folder is not None else default_folder()).resolve()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._index = self.folder / "index.sqlite"
            with contextlib.closing(self._connect()) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                migrate(connection)
                self._searchable = add_search(connection)

    def save(
        self,
        picture: Image.Image,
        metadata: Mapping[str, Any],
        parameters: str = "",
        *,
        kind: str = "text_to_image",
        job: str = "",
        index: int = 0,
        format: str = "png",
    ) -> Record:
        """Write a picture with its settings inside, and enter it in the index.

        Args:
            picture: any mode.
            metadata: plain values; "request" holds `Request.to_json()`, which a later `infotext.read` restores.
            parameters: the A1111-style text of `infotext.write`.
            kind, job, index: as in `Record`.
            format: "png", "jpeg" or "webp".

        Raises:
            StoreError: it cannot be written. No partial file is left; a whole one that only misses its row
                is kept, and taken in by the next `reconcile`.
        """
        facts = facts_of(metadata, parameters, kind, job, index)
        data = encode(picture, format, parameters, ours(facts, metadata))
        return self._write(facts | {"width": picture.width, "height": picture.height}, FORMATS[format], data)

    def save_bytes(
        self,
        data: bytes,
        suffix: str,
        metadata: Mapping[str, Any],
        parameters: str = "",
        *,
        kind: str,
        job: str = "",
        index: int = 0,
        size: tuple[int, int] = (0, 0),
    ) -> Record:
        """Write a finished file that is no picture (a clip, a table, an archive), and what it is beside it.

        Args:
            data: the whole file.
            suffix: of the server's choice, e.g. ".mp4".
            metadata, parameters, kind, job, index: as in `save`.
            size: (width, height) of a clip in pixels.

        Raises:
            StoreError: as in `save`.
        """
        if not _SUFFIX.match(suffix) or suffix == ABOUT:
            raise StoreError(
                f"A result cannot end in {suffix[:20]!r}: use a dot and up to eight small letters or digits, "
                f"and not {ABOUT}."
            )
        facts = facts_of(metadata, parameters, kind, job, index) | {"width": size[0], "height": size[1]}
        return self._write(facts, suffix, data, beside=True)

    def get(self, id: str) -> Record:
        """One result, deleted or not.

        Raises:
            StoreError: there is none with this id.
        """
        with self._open() as connection:
            return self._record(self._row(connection, id))

    def list(
        self,
        limit: int = 50,
        before: str | None = None,
        kind: str | None = None,
        text: str = "",
        *,
        trashed: bool = False,
    ) -> Sequence[Record]:
        """Results, the newest first.

        Args:
            limit: 1 to 1000.
            before: id of the last result of the page before this one.
            kind: only these.
            text: words that the prompt holds, each somewhere, in any case.
            trashed: those in the trash instead.
        """
        query, values = self._query(before, kind, text, trashed)
        with self._open() as connection:
            rows = connection.execute(f"{query} LIMIT ?", (*values, min(max(int(limit), 1), PAGE))).fetchall()
        return [self._record(row) for row in rows]

    def kinds(self, trashed: bool = False) -> Mapping[str, int]:
        """How many results there are of each kind, the most frequent first; of those in the trash instead."""
        query = (
            f"SELECT kind, count(*) AS number FROM result WHERE trashed IS {'NOT ' if trashed else ''}NULL "
            "GROUP BY kind ORDER BY number DESC"
        )
        with self._open() as connection:
            return {row["kind"]: row["number"] for row in connection.execute(query)}

    def delete(self, id: str) -> Record:
        """Move a result into the trash; `restore` takes it back."""
        return self._move(id, time.time())

    def restore(self, id: str) -> Record:
        """Take a result out of the trash."""
        return self._move(id, None)

    def empty_trash(self, older_than: float = 0.0) -> int:
        """Remove for good what was deleted more than so many seconds ago; returns how many results."""
        with self._open(write=True) as connection:
            rows = connection.execute("SELECT * FROM result WHERE trashed <= ?", (time.time() - older_than,)).fetchall()
            self._forget(connection, [row["number"] for row in rows])
        with explained():
            for row in rows:
                for path in self._places(row["name"]):
                    path.unlink(missing_ok=True)
                    about(path).unlink(missing_ok=True)
        return len(rows)

    def reconcile(self, older_than: float = 600.0) -> Reconciled:
        """Bring files and index together after a crash; call it when the program starts.

        Whole files without a row are entered from the JSON that they carry, rows whose file somebody removed
        go, and so do unfinished files.

        Args:
            older_than: seconds since the last write after which an unfinished file is nobody's any more.
        """
        with self._open() as connection:
            rows = {row["id"]: row for row in connection.execute("SELECT number, id, name, trashed FROM result")}
        with explained():
            found = {
                name[1]: path
                for folder in self._folders()
                for path in folder.iterdir()
                if (name := NAME.match(path.name)) and path.is_file() and not path.is_symlink()
            }
            self._rejoin(found.values())
            leftovers = sum(remove_partials(folder, older_than) for folder in self._folders())
            lost = [
                row["number"]
                for id, row in rows.items()
                if id not in found and not any(path.exists() for path in self._places(row["name"]))
            ]
            adopted = [
                facts for id, path in found.items() if id not in rows and (facts := self._facts_in(path)) is not None
            ]
        with self._open(write=True) as connection:
            self._forget(connection, lost)
            for id, path in found.items():
                away = path.parent.name == _TRASH
                if id in rows and away != (rows[id]["trashed"] is not None):
                    connection.execute(
                        "UPDATE result SET trashed = ? WHERE id = ?", (time.time() if away else None, id)
                    )
            entered = sum(self._enter(connection, facts) for facts in adopted)
        return Reconciled(entered, len(lost), leftovers)

    # The index.

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._index, timeout=30, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = NORMAL")  # a row lost in a power cut comes back by `reconcile`
        return connection

    @contextlib.contextmanager
    def _open(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        # A connection per call: SQLite's own locks then keep threads and processes apart alike.
        with explained(), contextlib.closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield connection
            connection.execute("COMMIT")

    def _row(self, connection: sqlite3.Connection, id: str) -> sqlite3.Row:
        row = connection.execute("SELECT * FROM result WHERE id = ?", (clean(str(id)),)).fetchone()
        if row is None:
            raise StoreError(
                f"There is no result {str(id)[:40]!r}: it may have been removed for good; reload the gallery."
            )
        return row

    def _query(self, before: str | None, kind: str | None, text: str, trashed: bool) -> tuple[str, Sequence[Any]]:
        wheres, values = [f"trashed IS {'NOT ' if trashed else ''}NULL"], []
        if kind is not None:
            wheres.append("kind = ?")
            values.append(kind)
        if before is not None:
            wheres.append("(created, id) < (SELECT created, id FROM result WHERE id = ?)")
            values.append(before)
        words = tuple(dict.fromkeys(clean(text).split()))[:20]
        if indexed := [
            word for word in words if self._searchable and len(word) >= 3
        ]:  # a trigram index knows nothing shorter
            wheres.append("number IN (SELECT rowid FROM result_search WHERE result_search MATCH ?)")
            values.append(" ".join('"' + word.replace('"', '""') + '"' for word in indexed))
        for word in words:
            if word not in indexed:
                wheres.append("prompt LIKE ? ESCAPE '\\'")
                values.append("%" + re.sub(r"([\\%_])", r"\\\1", word) + "%")
        return f"SELECT * FROM result WHERE {' AND '.join(wheres)} ORDER BY created DESC, id DESC", values

    def _enter(self, connection: sqlite3.Connection, facts: Mapping[str, Any]) -> bool:
        columns = ", ".join(facts)
        marks = ", ".join(f":{name}" for name in facts)
        cursor = connection.execute(
            f"INSERT INTO result ({columns}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING", facts
        )
        if cursor.rowcount == 1 and self._searchable:
            connection.execute(
                "INSERT INTO result_search (rowid, prompt) VALUES (?, ?)", (cursor.lastrowid, facts["prompt"])
            )
        return cursor.rowcount == 1

    def _forget(self, connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
        for table, column in (("result", "number"), ("result_search", "rowid")):
            if table == "result" or self._searchable:
                connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(number,) for number in numbers])

    # The files.

    def _write(self, facts: dict[str, Any], suffix: str, data: bytes, beside: bool = False) -> Record:
        name = f"{time.strftime('%Y-%m-%d', time.localtime(facts['created']))}/{facts['id']}{suffix}"
        facts |= {"name": name, "size": len(data)}
        path = self._inside(name)
        with explained():
            if beside:
                write_atomically(about(path), json.dumps(facts).encode())
            write_atomically(path, data)
        with self._open(write=True) as connection:
            self._enter(connection, facts)
            return self._record(self._row(connection, facts["id"]))

    def _move(self, id: str, trashed: float | None) -> Record:
        # The file goes first: `_record` and `reconcile` find it in either place.
        with self._open(write=True) as connection:
            row = self._row(connection, id)
            if (row["trashed"] is None) != (trashed is None):
                places = self._places(row["name"])
                source, target = places if trashed is not None else places[::-1]
                if about(source).exists():
                    move(about(source), about(target))
                move(source, target)
                connection.execute("UPDATE result SET trashed = ? WHERE id = ?", (trashed, row["id"]))
            return self._record(self._row(connection, id))

    def _folders(self) -> Sequence[Path]:
        # Days first, then the trash: what another process deletes meanwhile is then seen at least once.
        days = sorted(path for path in self.folder.iterdir() if _DAY.match(path.name))
        return [path for path in (*days, self.folder / _TRASH) if path.is_dir() and not path.is_symlink()]

    def _rejoin(self, paths: Iterable[Path]) -> None:
        # A crash while a clip was being moved may have parted it from its description.
        for path in paths:
            if path.suffix not in (".png", ".jpg"):  # a .webp may be a clip
                for place in self._places(self._name(path)):
                    if place != path and about(place).exists():
                        move(about(place), about(path))

    def _name(self, path: Path) -> str:
        # The name in the index is the one outside the trash; the day stands in the id.
        return f"{path.name[:4]}-{path.name[4:6]}-{path.name[6:8]}/{path.name}"

    def _facts_in(self, path: Path) -> Mapping[str, Any] | None:
        facts = facts_in(path, self._name(path))
        return facts and facts | {"trashed": time.time() if path.parent.name == _TRASH else None}

    def _places(self, name: str) -> tuple[Path, Path]:
        return self._inside(name), self._inside(f"{_TRASH}/{Path(name).name}")

    def _inside(self, name: str) -> Path:
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder):
            raise StoreError(
                "The index of results names a file outside the results folder: "
                "remove index.sqlite there and start again."
            )
        return path

    def _record(self, row: sqlite3.Row) -> Record:
        names = (row["name"], f"{_TRASH}/{Path(row['name']).name}")
        if row["trashed"] is not None:
            names = names[::-1]
        path = self._inside(next((name for name in names if (self.folder / name).exists()), names[0]))
        plain = {name: row[name] for name in set(row.keys()) - {"number", "name", "position", "metadata"}}
        return Record(path=path, index=row["position"], metadata=json.loads(row["metadata"]), **plain)

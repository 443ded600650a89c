"""The SQLite index over the results."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import StoreError
from studio.infotext.embed import clean
from studio.results.files import explain_disk_errors
from studio.results.migrations import add_search, migrate
from studio.results.options import EVERYTHING, ORDERS, ListOptions
from studio.results.records import Freed, Usage

__all__ = ["ResultIndex"]


class ResultIndex:
    """Keeps rows of results in `index.sqlite`; safe to use from many threads and processes.

    Args:
        folder: where the index stands; made if missing.

    Raises:
        StoreError: the folder cannot be written, or the index is damaged or newer than this program.
    """

    def __init__(self, folder: Path):
        with explain_disk_errors():
            self.folder = folder.resolve()
            self._index = self.folder / "index.sqlite"
            self._searchable = False
            self._prepare()

    def _prepare(self) -> None:
        """Make the folder and its index, as far as they are missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection)
            self._searchable = add_search(connection)

    def count_kinds(self, trashed: bool = False, owner: str | None = None) -> Mapping[str, int]:
        """Count the results of each kind, the most frequent first; of those in the trash instead; of an owner by
        pseudonym, or of everybody."""
        query = (
            f"SELECT kind, count(*) AS number FROM result WHERE trashed IS {'NOT ' if trashed else ''}NULL "
            f"{'' if owner is None else 'AND owner = ? '}GROUP BY kind ORDER BY number DESC"
        )
        with self._open() as connection:
            return {row["kind"]: row["number"] for row in connection.execute(query, () if owner is None else (owner,))}

    def count_models(self, owner: str | None = None) -> Mapping[str, int]:
        """Count the results of each model's key that are not deleted, by key: of an owner by pseudonym, or of
        everybody."""
        query = (
            "SELECT model, count(*) AS number FROM result WHERE trashed IS NULL AND model > '' "
            f"{'' if owner is None else 'AND owner = ? '}GROUP BY model ORDER BY model"
        )
        with self._open() as connection:
            rows = connection.execute(query, () if owner is None else (owner,))
            return {row["model"]: row["number"] for row in rows}

    def set_favorite(self, id: str, favorite: bool) -> None:
        """Enter a result as a favorite, or as none.

        Raises:
            StoreError: there is none with this id.
        """
        with self._open(write=True) as connection:
            row = self._get_row(connection, id)
            connection.execute("UPDATE result SET favorite = ? WHERE id = ?", (int(favorite), row["id"]))

    def count_bytes(self) -> Usage:
        """Count the bytes of the results and of the trash, by the index."""
        query = "SELECT trashed IS NOT NULL AS away, COALESCE(SUM(size), 0) AS bytes FROM result GROUP BY away"
        with self._open() as connection:
            bytes_by_place = {bool(row["away"]): int(row["bytes"]) for row in connection.execute(query)}
        return Usage(bytes_by_place.get(False, 0), bytes_by_place.get(True, 0))

    def measure_trash(self, owner: str | None = None) -> Freed:
        """Count what emptying the trash would remove, by the index: of an owner by pseudonym, or of everybody."""
        query = "SELECT count(*) AS number, COALESCE(SUM(size), 0) AS bytes FROM result WHERE trashed IS NOT NULL"
        with self._open() as connection:
            row = connection.execute(
                query if owner is None else f"{query} AND owner = ?", () if owner is None else (owner,)
            ).fetchone()
        return Freed(int(row["number"]), int(row["bytes"]))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._index, timeout=30, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = NORMAL")  # a row lost in a power cut comes back by `reconcile`
        return connection

    @contextlib.contextmanager
    def _open(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        # A connection per call: SQLite's own locks then keep threads and processes apart alike.
        with explain_disk_errors():
            if not self._index.exists():  # somebody has deleted the folder while the program runs
                self._prepare()
        with explain_disk_errors(), contextlib.closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield connection
            connection.execute("COMMIT")

    def _get_row(self, connection: sqlite3.Connection, id: str) -> sqlite3.Row:
        row = connection.execute("SELECT * FROM result WHERE id = ?", (clean(str(id)),)).fetchone()
        if row is None:
            raise StoreError(
                f"There is no result {str(id)[:40]!r}: it may have been removed for good; reload the gallery."
            )
        return row

    def _query(
        self,
        before: str | None,
        kind: str | None,
        text: str,
        trashed: bool,
        owner: str | None = None,
        options: ListOptions = EVERYTHING,
    ) -> tuple[str, Sequence[Any]]:
        order = ORDERS[options.order]
        wheres, values = [f"trashed IS {'NOT ' if trashed else ''}NULL"], []
        if owner is not None:
            wheres.append("owner = ?")
            values.append(owner)
        if kind is not None:
            wheres.append("kind = ?")
            values.append(kind)
        if options.model:
            wheres.append("model = ?")
            values.append(options.model)
        if options.favorites:
            wheres.append("favorite = 1")
        if before is not None:
            wheres.append(order.condition)
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
        return f"SELECT * FROM result WHERE {' AND '.join(wheres)} ORDER BY {order.clause}", values

    def _enter(self, connection: sqlite3.Connection, facts: Mapping[str, object]) -> bool:
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

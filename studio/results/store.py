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

import dataclasses
import json
import os
import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.core.errors import StoreError
from studio.infotext.embed import FORMATS, clean, encode
from studio.results.differences import find_differences
from studio.results.files import explain_disk_errors, get_default_folder, move, write_atomically
from studio.results.index import ResultIndex
from studio.results.options import EVERYTHING, ListOptions
from studio.results.owners import OwnerTags
from studio.results.places import TRASH, ResultPlaces
from studio.results.records import (
    ABOUT,
    Freed,
    Reconciled,
    Record,
    Usage,
    build_facts,
    format_embedded_json,
    get_description_path,
)

__all__ = ["Freed", "Reconciled", "Record", "Store", "Usage", "get_default_folder"]

PAGE = 1000
"""Records that `Store.list` returns at most."""

_COLUMNS = {field.name for field in dataclasses.fields(Record)} - {"path", "index", "metadata", "favorite"}
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}\Z")


class Store(ResultIndex):
    """Writes results, finds them again, deletes and restores them; safe to use from many threads.

    Args:
        folder: made if missing; by default `get_default_folder()`.

    Attributes:
        folder: of the files.
        owners: gives the pseudonyms under which owners are entered.

    Raises:
        StoreError: the folder cannot be written, or its index is damaged or newer than this program.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        super().__init__(Path(folder if folder is not None else get_default_folder()))
        self.owners = OwnerTags(self.folder)
        self._places = ResultPlaces(self.folder)
        self._is_behind = False

    def save(
        self,
        picture: Image.Image,
        metadata: Mapping[str, object],
        parameters: str = "",
        *,
        kind: str = "text_to_image",
        job: str = "",
        index: int = 0,
        format: str = "png",
        owner: str = "",
    ) -> Record:
        """Write a picture with its settings inside, and enter it in the index.

        Args:
            picture: any mode.
            metadata: plain values; "request" holds `Request.to_json()`, which a later `infotext.read` restores.
            parameters: the A1111-style text of `infotext.write`.
            kind, job, index: as in `Record`.
            format: "png", "jpeg" or "webp".
            owner: opaque id of whoever made it; the file and the index hold a pseudonym.

        Raises:
            StoreError: it cannot be written. No partial file is left; a whole one that only misses its row
                is kept, and taken in by the next `reconcile`.
        """
        facts = build_facts(metadata, parameters, kind, job, index, self.owners.tag(owner))
        data = encode(picture, format, parameters, format_embedded_json(facts, metadata))
        return self._write(facts | {"width": picture.width, "height": picture.height}, FORMATS[format], data)

    def save_bytes(
        self,
        data: bytes,
        suffix: str,
        metadata: Mapping[str, object],
        parameters: str = "",
        *,
        kind: str,
        job: str = "",
        index: int = 0,
        size: tuple[int, int] = (0, 0),
        owner: str = "",
    ) -> Record:
        """Write a finished file that is no picture (a clip, a table, an archive), and what it is beside it.

        Args:
            data: the whole file.
            suffix: of the server's choice, e.g. ".mp4".
            metadata, parameters, kind, job, index, owner: as in `save`.
            size: (width, height) of a clip in pixels.

        Raises:
            StoreError: as in `save`.
        """
        if not _SUFFIX.match(suffix) or suffix == ABOUT:
            raise StoreError(
                f"A result cannot end in {suffix[:20]!r}: use a dot and up to eight small letters or digits, "
                f"and not {ABOUT}."
            )
        facts = build_facts(metadata, parameters, kind, job, index, self.owners.tag(owner))
        facts |= {"width": size[0], "height": size[1]}
        return self._write(facts, suffix, data, beside=True)

    def get(self, id: str) -> Record:
        """Return one result, deleted or not.

        Raises:
            StoreError: there is none with this id.
        """
        with self._open() as connection:
            return self._record(self._get_row(connection, id))

    def list(
        self,
        limit: int = 50,
        before: str | None = None,
        kind: str | None = None,
        text: str = "",
        *,
        trashed: bool = False,
        owner: str | None = None,
        options: ListOptions = EVERYTHING,
    ) -> Sequence[Record]:
        """List results, the newest first or in another order.

        Args:
            limit: 1 to 1000.
            before: id of the last result of the page before this one.
            kind: only these.
            text: words that the prompt holds, each somewhere, in any case.
            trashed: those in the trash instead.
            owner: only those of this pseudonym; None for everybody's.
            options: what else narrows the list, and its order.
        """
        self._catch_up()
        query, values = self._query(before, kind, text, trashed, owner, options)
        with self._open() as connection:
            rows = connection.execute(f"{query} LIMIT ?", (*values, min(max(int(limit), 1), PAGE))).fetchall()
        return [self._record(row) for row in rows]

    def delete(self, id: str) -> Record:
        """Move a result into the trash; `restore` takes it back."""
        return self._move(id, time.time())

    def restore(self, id: str) -> Record:
        """Take a result out of the trash."""
        return self._move(id, None)

    def empty_trash(self, older_than: float = 0.0, owner: str | None = None) -> Freed:
        """Remove for good what was deleted more than so many seconds ago.

        Args:
            older_than: seconds.
            owner: only what this pseudonym's owner made; None for everybody's.
        """
        query = "SELECT * FROM result WHERE trashed <= ?"
        values: list[float | str] = [time.time() - older_than]
        if owner is not None:
            query, values = f"{query} AND owner = ?", [*values, owner]
        with self._open(write=True) as connection:
            rows = connection.execute(query, values).fetchall()
            self._forget(connection, [row["number"] for row in rows])
        return Freed(len(rows), self._places.unlink(row["name"] for row in rows))

    def remove(self, ids: Sequence[str]) -> Freed:
        """Remove deleted results for good; those that are not in the trash stay."""
        with self._open(write=True) as connection:
            rows = [
                row
                for id in ids
                if (row := connection.execute("SELECT * FROM result WHERE id = ?", (clean(str(id)),)).fetchone())
                and row["trashed"] is not None
            ]
            self._forget(connection, [row["number"] for row in rows])
        return Freed(len(rows), self._places.unlink(row["name"] for row in rows))

    def list_oldest(self, *, trashed: bool, before: float | None = None, limit: int = PAGE) -> Sequence[Record]:
        """List results to delete or to remove: those first that were made, or deleted, the longest ago.

        Favorites come last in the trash, and are never listed outside it.

        Args:
            trashed: those in the trash.
            before: only those made or deleted before this time, seconds since 1970.
            limit: at most so many.
        """
        column = "trashed" if trashed else "created"
        place, first = ("NOT NULL", "favorite, ") if trashed else ("NULL AND favorite = 0", "")
        query = f"SELECT * FROM result WHERE trashed IS {place} AND {column} < ? ORDER BY {first}{column}, id LIMIT ?"
        with self._open() as connection:
            rows = connection.execute(query, (time.time() if before is None else before, limit)).fetchall()
        return [self._record(row) for row in rows]

    def reconcile(self, older_than: float = 600.0) -> Reconciled:
        """Bring files and index together after a crash; call it when the program starts.

        Whole files without a row are entered from the JSON that they carry, rows whose file somebody removed
        go, and so do unfinished files.

        Args:
            older_than: seconds since the last write after which an unfinished file is nobody's any more.
        """
        with self._open() as connection:
            rows = {row["id"]: row for row in connection.execute("SELECT number, id, name, trashed FROM result")}
        with explain_disk_errors():
            differences = find_differences(self._places, rows, older_than)
        with self._open(write=True) as connection:
            self._forget(connection, differences.missing_rows)
            connection.executemany(
                "UPDATE result SET trashed = ? WHERE id = ?",
                [(time.time() if is_trashed else None, id) for id, is_trashed in differences.moved.items()],
            )
            entered = sum(self._enter(connection, facts) for facts in differences.adopted)
        return Reconciled(entered, len(differences.missing_rows), differences.removed_files)

    # The files.

    def _write(self, facts: dict[str, Any], suffix: str, data: bytes, beside: bool = False) -> Record:
        name = f"{time.strftime('%Y-%m-%d', time.localtime(facts['created']))}/{facts['id']}{suffix}"
        facts |= {"name": name, "size": len(data)}
        path = self._places.resolve(name)
        with explain_disk_errors():
            if beside:
                write_atomically(get_description_path(path), json.dumps(facts).encode())
            write_atomically(path, data)
        try:
            with self._open(write=True) as connection:
                self._enter(connection, facts)
                return self._record(self._get_row(connection, facts["id"]))
        except StoreError:  # the file is whole: it is found as soon as the index can be written again
            self._is_behind = True
            raise

    def _catch_up(self) -> None:
        """Enter files whose rows could not be written, as when the disk was full."""
        if self._is_behind:
            self._is_behind = False
            try:
                self.reconcile()
            except StoreError:
                self._is_behind = True

    def _move(self, id: str, trashed: float | None) -> Record:
        # The file goes first: `_record` and `reconcile` find it in either place.
        with self._open(write=True) as connection:
            row = self._get_row(connection, id)
            if (row["trashed"] is None) != (trashed is None):
                places = self._places.list_places(row["name"])
                source, target = places if trashed is not None else places[::-1]
                if get_description_path(source).exists():
                    move(get_description_path(source), get_description_path(target))
                move(source, target)
                connection.execute("UPDATE result SET trashed = ? WHERE id = ?", (trashed, row["id"]))
            return self._record(self._get_row(connection, id))

    def _record(self, row: sqlite3.Row) -> Record:
        names = (row["name"], f"{TRASH}/{Path(row['name']).name}")
        if row["trashed"] is not None:
            names = names[::-1]
        path = self._places.resolve(next((name for name in names if (self.folder / name).exists()), names[0]))
        columns = {name: row[name] for name in _COLUMNS}
        favorite, metadata = bool(row["favorite"]), json.loads(row["metadata"])
        return Record(path=path, index=row["position"], metadata=metadata, favorite=favorite, **columns)

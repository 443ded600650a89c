"""Where the files of results and their index differ, as after a crash."""

from __future__ import annotations

import dataclasses
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studio.results.files import remove_partials
from studio.results.places import TRASH, ResultPlaces
from studio.results.records import NAME, read_facts

__all__ = ["Differences", "find_differences"]


@dataclasses.dataclass(frozen=True)
class Differences:
    """Describes what has to change in the index.

    Attributes:
        missing_rows: numbers of the rows whose file is gone.
        adopted: columns of the rows that whole files lack.
        moved: id to whether its file lies in the trash, where its row says otherwise.
        removed_files: how many unfinished files were removed.
    """

    missing_rows: Sequence[int]
    adopted: Sequence[Mapping[str, Any]]
    moved: Mapping[str, bool]
    removed_files: int


def find_differences(places: ResultPlaces, rows: Mapping[str, sqlite3.Row], older_than: float) -> Differences:
    """Compare the files with the rows; also remove unfinished files, and bring parted descriptions to their files.

    Args:
        places: of the files.
        rows: id to its row's number, name and trashed.
        older_than: seconds since the last write after which an unfinished file is nobody's any more.

    Raises:
        OSError: a folder cannot be read.
    """
    paths_by_id = {
        name[1]: path
        for folder in places.list_folders()
        for path in folder.iterdir()
        if (name := NAME.match(path.name)) and path.is_file() and not path.is_symlink()
    }
    places.move_parted_descriptions(paths_by_id.values())
    removed_files = sum(remove_partials(folder, older_than) for folder in places.list_folders())
    missing_rows = [
        row["number"]
        for id, row in rows.items()
        if id not in paths_by_id and not any(path.exists() for path in places.list_places(row["name"]))
    ]
    adopted = [
        facts
        for id, path in paths_by_id.items()
        if id not in rows and (facts := _read_columns(places, path)) is not None
    ]
    in_trash = {id: path.parent.name == TRASH for id, path in paths_by_id.items() if id in rows}
    moved = {id: trashed for id, trashed in in_trash.items() if trashed != (rows[id]["trashed"] is not None)}
    return Differences(missing_rows, adopted, moved, removed_files)


def _read_columns(places: ResultPlaces, path: Path) -> Mapping[str, Any] | None:
    """Read the columns of a file's row from the JSON that it carries; None for a file that carries none."""
    facts = read_facts(path, places.get_indexed_name(path))
    return facts and facts | {"trashed": time.time() if path.parent.name == TRASH else None}

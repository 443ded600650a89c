"""Where the files of results stand: a folder a day, and the trash."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipelines.core.errors import StoreError
from studio.results.files import explain_disk_errors, move
from studio.results.records import get_description_path

__all__ = ["TRASH", "ResultPlaces"]

TRASH = "trash"
_DAY = re.compile(r"\d{4}-\d\d-\d\d\Z")


class ResultPlaces:
    """Resolves folders and paths of results.

    Args:
        folder: of all results, with its links followed.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def list_folders(self) -> Sequence[Path]:
        """List the folders that hold results."""
        # Days first, then the trash: what another process deletes meanwhile is then seen at least once.
        days = sorted(path for path in self._folder.iterdir() if _DAY.match(path.name))
        return [path for path in (*days, self._folder / TRASH) if path.is_dir() and not path.is_symlink()]

    def get_indexed_name(self, path: Path) -> str:
        """Return the name of a file in the index."""
        # The name in the index is the one outside the trash; the day stands in the id.
        return f"{path.name[:4]}-{path.name[4:6]}-{path.name[6:8]}/{path.name}"

    def list_places(self, name: str) -> tuple[Path, Path]:
        """Return the two places where a result may stand: in its day, and in the trash."""
        return self.resolve(name), self.resolve(f"{TRASH}/{Path(name).name}")

    def resolve(self, name: str) -> Path:
        """Return the path of a name in the index.

        Raises:
            StoreError: it lies outside the folder.
        """
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder):
            raise StoreError(
                "The index of results names a file outside the results folder: "
                "remove index.sqlite there and start again."
            )
        return path

    def move_parted_descriptions(self, paths: Iterable[Path]) -> None:
        """Move descriptions to the files that they describe."""
        # A crash while a clip was being moved may have parted it from its description.
        for path in paths:
            if path.suffix not in (".png", ".jpg"):  # a .webp may be a clip
                for place in self.list_places(self.get_indexed_name(path)):
                    if place != path and get_description_path(place).exists():
                        move(get_description_path(place), get_description_path(path))

    def unlink(self, names: Iterable[str]) -> int:
        """Remove files and their descriptions for good; returns their bytes."""
        freed = 0
        with explain_disk_errors():
            for name in names:
                for path in self.list_places(name):
                    for file in (path, get_description_path(path)):
                        with contextlib.suppress(FileNotFoundError):
                            size = file.stat().st_size
                            file.unlink()
                            freed += size
        return freed

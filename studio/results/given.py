"""Pictures that people give to steer runs: kept beside the results, so that settings can name them."""

from __future__ import annotations

import io
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.core.errors import PictureError, StoreError
from pipelines.workflows.edit.request import Picture
from studio.media.pictures import open_picture

__all__ = ["GivenPictures"]

_NAME = re.compile(r"[0-9a-f]{64}\Z")
_MOST_PIXELS = 4 * 2**20
_MOST_FILES = 500
_MOST_KNOWN = 64


class GivenPictures:
    """Keeps pictures by the digest of their pixels, which only who has the picture or its settings can know.

    Args:
        folder: made when the first is kept; the least recently used go once there are more than 500.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._known: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, picture: Picture) -> str:
        """Keep a picture (at most 4 megapixels of it) and return its name.

        Raises:
            StoreError: it cannot be written.
        """
        picture = picture.within(_MOST_PIXELS)
        path = self._folder / f"{picture.digest}.png"
        try:
            if path.exists():
                os.utime(path)
                return picture.digest
            self._folder.mkdir(parents=True, exist_ok=True)
            data = io.BytesIO()
            Image.fromarray(picture.pixels).save(data, "PNG")
            part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
            part.write_bytes(data.getvalue())
            part.replace(path)
            self._tidy()
        except OSError as error:
            raise StoreError(f"The picture cannot be kept ({error.strerror}). Free some disk space.") from error
        return picture.digest

    def add_file(self, path: str) -> str:
        """Keep the picture of the server's own temporary file of an upload; the same file is read once.

        Raises:
            PictureError: it is no picture.
            StoreError: it cannot be written.
        """
        try:
            stamp = (path, os.stat(path).st_mtime_ns)
        except OSError as error:
            raise PictureError("The picture is not here any more. Choose it again.") from error
        with self._lock:
            known = self._known.get(stamp)
        if known and self.has(known):
            return known
        picture = open_picture(path)
        if picture.mode == "RGBA":
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        name = self.add(Picture(np.asarray(picture.convert("RGB"))))
        with self._lock:
            self._known[stamp] = name
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return name

    def has(self, name: str) -> bool:
        """Say whether a picture of this name, untrusted, is here."""
        return _NAME.match(name) is not None and (self._folder / f"{name}.png").is_file()

    def read(self, name: str) -> np.ndarray:
        """Return a picture, (H, W, 3), uint8.

        Args:
            name: untrusted.

        Raises:
            PictureError: there is none of this name.
        """
        if not self.has(name):
            raise PictureError("The picture that steers this run is not here any more. Choose it again.")
        path = self._folder / f"{name}.png"
        try:
            os.utime(path)
            with Image.open(path) as picture:
                return np.asarray(picture.convert("RGB"))
        except OSError as error:
            raise PictureError("The picture that steers this run cannot be read. Choose it again.") from error

    def _tidy(self) -> None:
        files = sorted(self._folder.glob("*.png"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[_MOST_FILES:]:
            path.unlink(missing_ok=True)

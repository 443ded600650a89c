"""From a model's pictures to those that are shown and stored: checked, and marked invisibly."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pipelines.core.errors import ModelFileError
from pipelines.models.catalog import Catalog
from pipelines.models.safety_checker import SafetyChecker, find_safety_checker
from studio.jobs.job import Job
from studio.media.watermark import add_watermark
from studio.safety.protection import Protection

__all__ = ["UNCHECKED", "WITHHELD", "PictureRelease"]

WITHHELD = "The safety checker withheld a picture. It is not stored."
UNCHECKED = "No safety checker has looked at this: none is installed."
"""Where pictures should be checked and cannot be."""

_LOG = logging.getLogger("stepwise.release")
_GRAY, _TEXT = 96, 224
_REMEMBERED = 1024


class PictureRelease:
    """Checks and marks finished pictures, each once.

    Args:
        protection: which of the two is done.
        catalog: says where a model, and the models folders, lie.
    """

    def __init__(self, protection: Protection, catalog: Catalog):
        self._protection, self._catalog = protection, catalog
        self._checkers: dict[Path, SafetyChecker] = {}
        self._verdicts: OrderedDict[tuple[Path, bytes], bool] = OrderedDict()
        self._lock = threading.Lock()

    def release(self, pictures: np.ndarray, model: str, job: Job, cell: int = 0) -> np.ndarray:
        """Return the pictures as they are to be shown and stored.

        Where one is withheld, the pictures of the cell's steps go, and its note says so. Where they should be checked
        and there is no checker, its note says that.

        Args:
            pictures: (B, H, W, 3), uint8, whole and as the model made them.
            model: that made them; "" for none.
            job: whose they are.
            cell: of the job.

        Raises:
            ModelFileError: the safety checker cannot be loaded.
        """
        flags = self._flag(pictures, model)
        if any(flags):
            _add_note(job, cell, WITHHELD, frames=[])
        elif self._protection.checks and self._find_checker(model) is None:
            _add_note(job, cell, UNCHECKED)
        return self._cover_and_mark(pictures, flags)

    def release_frames(self, pictures: np.ndarray, model: str) -> np.ndarray:
        """Return pictures of a step as they are to be shown: see `release`."""
        return self._cover_and_mark(pictures, self._flag(pictures, model))

    def describe(self) -> list[str]:
        """Say to whoever uses the page what is done to its pictures, a sentence each."""
        sentences = []
        if self._protection.marks:
            sentences.append("Pictures made here carry an invisible watermark.")
        if self._protection.checks and self._find_checker("") is not None:
            sentences.append("A safety checker looks at finished pictures and withholds some.")
        elif self._protection.checks:
            sentences.append("Pictures are not checked: no safety checker is installed.")
        return sentences

    def explain_missing(self) -> str:
        """Say at the start that pictures are not checked though they should be; "" where they are."""
        if not self._protection.checks or self._find_checker("") is not None:
            return ""
        return (
            "Pictures are not checked: no safety checker lies in the models folder. Put the folder of "
            "CompVis/stable-diffusion-safety-checker (safetensors) into it, or start with --no-safety-checker."
        )

    def load(self) -> None:
        """Load the checker now, and not for the first picture.

        Raises:
            ModelFileError: it cannot be loaded.
        """
        folder = self._find_checker("")
        if self._protection.checks and folder is not None:
            self._load(folder)

    def _find_checker(self, model: str) -> Path | None:
        path = self._catalog[model].path if model in self._catalog else None
        return find_safety_checker(path, self._catalog.folders.all)

    def _load(self, folder: Path) -> SafetyChecker:
        with self._lock:
            if folder not in self._checkers:
                self._checkers[folder] = SafetyChecker(folder)
            return self._checkers[folder]

    def _flag(self, pictures: np.ndarray, model: str) -> list[bool]:
        folder = self._find_checker(model) if self._protection.checks else None
        if folder is None:
            return [False] * len(pictures)
        keys = [(folder, _digest(picture)) for picture in pictures]
        with self._lock:
            known = {key: self._verdicts[key] for key in keys if key in self._verdicts}
        new = [index for index, key in enumerate(keys) if key not in known]
        if new:
            try:
                flags = self._load(folder).flag(pictures[new])
            except ModelFileError:
                _LOG.exception("the safety checker cannot be loaded")
                raise
            known |= {keys[index]: flag for index, flag in zip(new, flags, strict=True)}
            self._remember(known)
        return [known[key] for key in keys]

    def _remember(self, verdicts: Mapping[tuple[Path, bytes], bool]) -> None:
        with self._lock:
            self._verdicts.update(verdicts)
            while len(self._verdicts) > _REMEMBERED:
                self._verdicts.popitem(last=False)

    def _cover_and_mark(self, pictures: np.ndarray, flags: list[bool]) -> np.ndarray:
        if not self._protection.marks and not any(flags):
            return pictures
        covered = [
            _draw_cover(picture.shape) if flag else picture for picture, flag in zip(pictures, flags, strict=True)
        ]
        return np.stack([add_watermark(picture) for picture in covered] if self._protection.marks else covered)


def _add_note(job: Job, cell: int, sentence: str, **changes: object) -> None:
    note = job.view().cells[cell].note
    job.update_cell(cell, note=note if sentence in note else f"{note} {sentence}".strip(), **changes)


def _digest(picture: np.ndarray) -> bytes:
    return hashlib.sha256(str(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).digest()


def _draw_cover(shape: tuple[int, ...]) -> np.ndarray:
    """A gray picture in place of another of this shape (H, W, 3)."""
    image = Image.new("RGB", (shape[1], shape[0]), (_GRAY,) * 3)
    size = max(8, shape[1] // 8)
    ImageDraw.Draw(image).text((shape[1] / 2, shape[0] / 2), "withheld", fill=(_TEXT,) * 3, anchor="mm", font_size=size)
    return np.asarray(image)

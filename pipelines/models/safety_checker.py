"""Published models' safety checker: where one lies, and which pictures it flags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import ModelFileError
from pipelines.models.files import part_files, read_json
from pipelines.weights.libraries import import_libraries

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CLASS", "SafetyChecker", "find_safety_checker", "is_safety_checker"]

CLASS = "StableDiffusionSafetyChecker"

_LIBRARY, _PART, _PROCESSOR = "stable_diffusion", "safety_checker", "feature_extractor"
_TOGETHER = 8
"""Pictures of one evaluation, each 224 x 224 pixels."""


def is_safety_checker(folder: Path) -> bool:
    """Say whether a folder holds a checker by itself, as its publishers give it out."""
    try:
        architectures = read_json(folder / "config.json").get("architectures")
    except ModelFileError:
        return False
    return isinstance(architectures, list) and CLASS in architectures


def find_safety_checker(model: Path | None, folders: Iterable[Path]) -> Path | None:
    """Find the folder of the checker for a model: its own, or else the first that lies in the models folders.

    Args:
        model: its diffusers folder; None for models without one.
        folders: of models; a checker lies in them by itself, or as the part of another model.
    """
    if model is not None and _has_config(model / _PART):
        return model / _PART
    return next(_list_checkers(folders), None)


def _list_checkers(folders: Iterable[Path]) -> Iterator[Path]:
    children = [child for folder in folders if folder.is_dir() for child in sorted(folder.iterdir()) if child.is_dir()]
    yield from (child for child in children if is_safety_checker(child))
    yield from (child / _PART for child in children if _has_config(child / _PART))


def _has_config(folder: Path) -> bool:
    return (folder / "config.json").is_file()


class SafetyChecker:
    """Flags pictures that its publishers hold unsafe. It stays in the computer's memory: 1.2 GB for the published one.

    Args:
        folder: of the checker, or of the part of a model.

    Raises:
        ModelFileError: it is incomplete, or holds its weights as pickles only.
    """

    def __init__(self, folder: Path):
        from pipelines.models.part_loading import load_part  # late: listing models imports no PyTorch

        self._network = load_part(part_files(_PART, _LIBRARY, CLASS, folder, ("",)), "float32", "cpu")
        self._processor = _load_processor(folder, self._network.config.vision_config.image_size)

    def flag(self, pictures: np.ndarray) -> list[bool]:
        """Say of each picture whether it is flagged.

        Args:
            pictures: (B, H, W, 3), uint8.
        """
        flags: list[bool] = []
        for start in range(0, len(pictures), _TOGETHER):
            batch = list(pictures[start : start + _TOGETHER])
            pixels = self._processor(batch, return_tensors="pt").pixel_values
            # It blackens what it flags in a list of its own.
            flags += self._network(clip_input=pixels, images=[0 * picture for picture in batch])[1]
        return [bool(flag) for flag in flags]


def _load_processor(folder: Path, side: int) -> Any:
    """The processor beside the checker, or CLIP's own where none is there."""
    import_libraries()
    from transformers import CLIPImageProcessor

    for place in (folder, folder.parent / _PROCESSOR):
        if (place / "preprocessor_config.json").is_file():
            return CLIPImageProcessor.from_pretrained(str(place), local_files_only=True)
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})

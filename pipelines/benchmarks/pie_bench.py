"""PIE-Bench as a person has it: the official folder, or the parquet mirror of the Hub."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipelines.core.errors import SettingsError

__all__ = ["INSTALL", "SIDE", "Sample", "decode_mask", "read_pie_bench"]

SIDE = 512
"""Pixels of a side of every picture and mask."""
INSTALL = "pip install -r requirements-pie-bench.txt"


@dataclasses.dataclass(frozen=True)
class Sample:
    """Describes one picture of the benchmark and its edit.

    Attributes:
        key: of the sample.
        kind: the number of the edit's type, "0" to "9"; "" where it isn't known.
        picture: (512, 512, 3) uint8.
        source_prompt, target_prompt: without the brackets around what changes.
        blended: the words that change, of source and target; () where the benchmark names none.
        mask: (512, 512) bool, true where the picture is edited.
    """

    key: str
    kind: str
    picture: np.ndarray
    source_prompt: str
    target_prompt: str
    blended: tuple[str, ...]
    mask: np.ndarray


def decode_mask(runs: Sequence[int]) -> np.ndarray:
    """Decode [start, length, start, length, ...], counted from 0 by rows, to (512, 512) bool.

    The border of one pixel is set, as the benchmark's own code does against mistakes of the annotation there.

    Raises:
        SettingsError: an odd number of them, or a run that leaves the picture.
    """
    if len(runs) % 2:
        raise SettingsError(f"A mask of PIE-Bench has {len(runs)} numbers. They come in pairs of start and length.")
    flat = np.zeros(SIDE * SIDE, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if start < 0 or length < 0 or start + length > len(flat):
            raise SettingsError(f"A mask of PIE-Bench has a run of {length} from {start}, which leaves the picture.")
        flat[start : start + length] = True
    mask: np.ndarray = flat.reshape(SIDE, SIDE)
    mask[[0, -1]] = True
    mask[:, [0, -1]] = True
    return mask


def read_pie_bench(folder: Path) -> Iterator[Sample]:
    """Read the samples of a folder, in the benchmark's own order.

    Args:
        folder: with data/mapping_file.json and data/annotation_images, or these two themselves; or with parquet files.

    Raises:
        SettingsError: it holds neither, a file cannot be read, or parquet needs a package that is not here.
    """
    for root in (folder / "data", folder):
        if (root / "mapping_file.json").is_file():
            return _read_official(root)
    if files := sorted(folder.rglob("*.parquet")):
        return _read_parquet(files)
    raise SettingsError(
        f"{folder} holds neither data/mapping_file.json nor parquet files. Give the folder of PIE-Bench, or of its "
        "parquet mirror."
    )


def _read_official(root: Path) -> Iterator[Sample]:
    try:
        rows: Mapping[str, Mapping[str, Any]] = json.loads((root / "mapping_file.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{root / 'mapping_file.json'} cannot be read: {error}.") from error
    for key, row in rows.items():
        yield _build_sample(
            key,
            str(row.get("editing_type_id", "")),
            (root / "annotation_images" / str(row["image_path"])).read_bytes(),
            (str(row["original_prompt"]), str(row["editing_prompt"])),
            (str(row.get("blended_word", "")), row["mask"]),
        )


def _read_parquet(files: Sequence[Path]) -> Iterator[Sample]:
    try:
        import pyarrow.parquet as parquet  # late: an optional package
    except ImportError as error:
        raise SettingsError(
            f"Parquet files are read by pyarrow, which is not installed. Install it: {INSTALL}"
        ) from error
    for file in files:
        # The mirror has a folder, or a file, a type: "0_random_140/V1-00000-of-00001.parquet".
        kind = next((part[0] for part in (file.parent.name, file.name) if re.match(r"\d_", part)), "")
        for row in parquet.read_table(file).to_pylist():
            image = row["image"]
            content = image["bytes"] if isinstance(image, Mapping) else image
            prompts = (str(row["source_prompt"]), str(row["target_prompt"]))
            yield _build_sample(str(row["id"]), kind, content, prompts, (row.get("blended_words") or "", row["mask"]))


def _build_sample(
    key: str, kind: str, content: bytes, prompts: tuple[str, str], annotation: tuple[object, object]
) -> Sample:
    blended, mask = annotation
    try:
        with Image.open(io.BytesIO(content)) as image:
            picture = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise SettingsError(f"The picture of the sample {key} cannot be read: {error}.") from error
    if picture.shape[:2] != (SIDE, SIDE):
        raise SettingsError(
            f"The picture of the sample {key} has {picture.shape[1]} × {picture.shape[0]} pixels, not 512."
        )
    source, target = (prompt.replace("[", "").replace("]", "") for prompt in prompts)
    return Sample(key, kind, picture, source, target, _read_words(blended), decode_mask(_read_numbers(mask)))


def _read_words(blended: object) -> tuple[str, ...]:
    """Two words, of source and target; the mirror may hold them as a list, or as one's text."""
    words = [str(word) for word in blended] if isinstance(blended, (list, tuple)) else str(blended).split()
    words = [word.strip("[](),'\" ") for word in words]
    return tuple(word for word in words if word)[:2]


def _read_numbers(mask: object) -> list[int]:
    """Numbers of a list, or of its text."""
    if isinstance(mask, (list, tuple)):
        return [int(number) for number in mask]
    return [int(number) for number in re.findall(r"-?\d+", str(mask))]

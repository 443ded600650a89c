"""Files of directions: safetensors in the folder "sliders" of the models folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pipelines.core.errors import ModelFileError, SettingsError, UnknownMethodError
from pipelines.families.directions import SPACES, Directions

__all__ = ["FOLDER", "check_name", "list_directions", "list_fitting", "read_directions", "write_directions"]

FOLDER = "sliders"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
_TENSORS = ("times", "vectors", "deviations", "shares")
_LARGEST = 2**30
"""Bytes of a file that is read: thousands of times those of a small model, and less than any memory."""


def check_name(name: str) -> None:
    """Check what a file of directions is to be called.

    Raises:
        SettingsError: it is no name of a file that every system takes.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"The name {name[:40]!r} is not one of small letters, digits, hyphens and underscores, up to 48. Choose "
            "another."
        )


def list_directions(folder: Path) -> dict[str, Path]:
    """List the files of directions by name; `folder` is the models folder's "sliders"."""
    found = folder.glob("*.safetensors") if folder.is_dir() else ()
    return {path.stem: path for path in sorted(found) if _NAME.fullmatch(path.stem)}


def list_fitting(folder: Path, model: str) -> list[str]:
    """List the names of the files that are of a model, as far as their headers tell."""
    found = []
    for name, path in list_directions(folder).items():
        try:
            with safe_open(path, "pt") as file:
                if _read_record(file.metadata()).get("model") == model:
                    found.append(name)
        except (OSError, SafetensorError, ValueError, RecursionError):
            continue  # a run that names it says that it is broken
    return found


def _read_record(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    record = json.loads((metadata or {}).get("directions", "{}"))
    return record if isinstance(record, dict) else {}


def read_directions(folder: Path, name: str, model: str = "") -> Directions:
    """Read a file of directions.

    Args:
        folder: of the files.
        name: of one of them.
        model: key of the one that they are for, of whose files alone a refusal tells; "" for all.

    Raises:
        UnknownMethodError: there is none of this name.
        ModelFileError: the file is broken, or not one of directions.
    """
    files = list_directions(folder)
    if name not in files:
        raise UnknownMethodError("file of sliders", name, list_fitting(folder, model) if model else files)
    path = files[name]
    broken = f"{path.name} is no file of directions for sliders, or it is broken. Compute it again with Look inside."
    try:
        if path.stat().st_size > _LARGEST:
            raise ModelFileError(broken)
        with safe_open(path, "pt") as file:
            record = _read_record(file.metadata())
            tensors = {tensor: file.get_tensor(tensor) for tensor in _TENSORS}
        size = (int(record["width"]), int(record["height"]))
        directions = Directions(str(record["space"]), str(record["model"]), size, **tensors)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ModelFileError(broken) from error
    if not _is_whole(directions):
        raise ModelFileError(broken)
    return directions


def _is_whole(directions: Directions) -> bool:
    vectors, tensors = directions.vectors, [getattr(directions, name) for name in _TENSORS]
    shapes = vectors.ndim == 5 and directions.times.shape == vectors.shape[1:2] and len(vectors) > 0
    alike = all(one.shape == vectors.shape[:1] for one in (directions.deviations, directions.shares))
    finite = all(one.dtype == torch.float32 and bool(one.isfinite().all()) for one in tensors)
    return shapes and alike and finite and len(directions.times) > 0 and directions.space in SPACES


def write_directions(directions: Directions, folder: Path, name: str) -> Path:
    """Write a file of directions; returns its path.

    Raises:
        SettingsError: there is one of this name already, or the name is none.
    """
    from safetensors.torch import save_file  # late: PyTorch is imported with it

    check_name(name)
    if name in list_directions(folder):
        raise SettingsError(f"There are sliders {name!r} already. Give the new ones another name.")
    folder.mkdir(parents=True, exist_ok=True)
    width, height = directions.size
    record = {"space": directions.space, "model": directions.model, "width": width, "height": height}
    path = folder / f"{name}.safetensors"
    part = path.with_suffix(".part")
    tensors = {tensor: getattr(directions, tensor).contiguous().cpu() for tensor in _TENSORS}
    save_file(tensors, part, metadata={"directions": json.dumps(record)})
    part.replace(path)
    return path

"""Replace a folder whole: what is there stays until its successor is complete beside it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from pipelines.core.errors import TrainingError
from pipelines.models.files import part_folder

__all__ = ["FILES", "FLOW_FILES", "HISTORY", "build_successor", "fingerprint", "recover", "swap"]

FILES = ("model_index.json", "preview.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae")
"""What an export gives a model; its card and its figures are the model folder's own."""
FLOW_FILES = (
    *(name for name in FILES if name != "unet"),
    "text_encoder_2",
    "tokenizer_2",
    "transformer",
)
"""The same of a flow transformer's export."""
HISTORY = "history.json"  # belongs to the weights too; exports of an earlier time have none


def build_successor(candidate: Path, folder: Path) -> Path:
    """Build beside `folder` its successor: the candidate's FILES and HISTORY, and all else that it has.

    Returns: the successor, for `swap` once it is complete.
    Raises: TrainingError when the candidate lacks one of FILES.
    """
    missing = [name for name in FILES if not (candidate / name).exists()]
    if missing:
        raise TrainingError(f"The candidate {str(candidate)!r} lacks {', '.join(missing)}: export it again.")
    successor, replaced = _name_sibling(folder, ".new"), {*FILES, HISTORY}
    shutil.rmtree(successor, ignore_errors=True)
    shutil.copytree(folder, successor, ignore=lambda at, names: replaced if Path(at) == folder else ())
    shutil.copytree(
        candidate,
        successor,
        dirs_exist_ok=True,
        ignore=lambda at, names: set(names) - replaced if Path(at) == candidate else (),
    )
    return successor


def swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder` by two renames; killed between them, `recover` undoes the first."""
    old = _name_sibling(folder, ".old")
    if folder.exists():  # else `old` may be the only copy
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Tidy up after an exchange that was cut off: the old folder is put back, or leaves the new one."""
    old = _name_sibling(folder, ".old")
    if old.is_dir() and not folder.exists():
        os.replace(old, folder)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(_name_sibling(folder, ".new"), ignore_errors=True)


def fingerprint(folder: Path, names: Iterable[str]) -> str:
    """Compute the SHA-256 over files and folders of `folder`, its shared parts among them: their paths and bytes.

    Raises: TrainingError when one is missing.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        path = part_folder(folder, name)
        if not path.exists():
            raise TrainingError(f"{str(folder)!r} lacks {name}.")
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        for file in files:
            content = file.read_bytes()
            within = name if file == path else f"{name}/{file.relative_to(path).as_posix()}"
            digest.update(f"{within}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _name_sibling(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)

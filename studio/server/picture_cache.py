"""Pictures in gradio's temporary folder are there whole or not at all.

Gradio names a picture's file by its content and writes it in place each time that the same picture is shown. Whoever
reads it in that moment, as the event that follows a click on an example does, gets the beginning of a file.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["write_pictures_whole"]


def write_pictures_whole() -> None:
    """Have gradio write its copies of pictures beside their place and move them there; further calls change nothing."""
    from gradio import processing_utils

    original = processing_utils.save_pil_to_cache
    if getattr(original, "_is_whole", False):
        return

    @functools.wraps(original)
    def save(img: object, cache_dir: str, *arguments: object, **settings: object) -> str:
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        staging = tempfile.mkdtemp(prefix="writing-", dir=cache_dir)
        try:
            written = Path(original(img, staging, *arguments, **settings))
            # gradio names the folder by the content
            target = Path(cache_dir).resolve() / written.parent.name / written.name
            target.parent.mkdir(exist_ok=True)
            _move(written, target)
            return str(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    save._is_whole = True  # type: ignore[attr-defined]
    processing_utils.save_pil_to_cache = save


def _move(written: Path, target: Path) -> None:
    try:
        os.replace(written, target)
    except PermissionError:
        if not target.exists():  # else somebody reads it, which Windows minds, and it is the same picture
            raise

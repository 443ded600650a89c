"""The folder of a person's models, and lists of further ones in our own form and in those of the peers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.core.errors import SettingsError

__all__ = ["LISTS", "models_folder", "more_model_folders", "read_folder_list"]

LISTS = ("extra_model_paths.yaml", "model_folders.yaml", "model_folders.json")
"""Names under which a models folder's own list of further folders is found."""


def models_folder() -> Path:
    """Find where a person puts models: $STEPWISE_MODELS, else `stepwise/models` among the user's data."""
    configured = os.environ.get("STEPWISE_MODELS")
    if configured:
        return Path(configured).expanduser()
    data = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data).expanduser() / "stepwise" / "models"


def more_model_folders(places: Sequence[Path]) -> list[Path]:
    """Return further folders of models out of folders and of lists of them.

    Raises:
        SettingsError: a place is not there, or a list cannot be read.
    """
    folders: list[Path] = []
    for place in places:
        path = place.expanduser().resolve()
        if path.is_dir():
            folders.append(path)
        elif path.is_file():
            folders += read_folder_list(path)
        else:
            raise SettingsError(f"--more-models {path} is not there. Name a folder, or a yaml or JSON list of folders.")
    return folders


def read_folder_list(path: Path) -> list[Path]:
    """Read the folders that a yaml or JSON file names: a plain list, ComfyUI's extra_model_paths, or Fooocus' path_*
    fields.

    Args:
        path: the file; paths in it that are not absolute are meant from its own folder.

    Raises:
        SettingsError: it cannot be read, or names no folder.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        plain = json.loads(text) if path.suffix.lower() in {".json", ".txt"} else _parse_yaml(text)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path.name} cannot be read as a list of model folders ({str(error)[:120]}).") from error
    folders = list(_parse_folders(plain, path.parent))
    if not folders:
        raise SettingsError(
            f"{path.name} names no folder. Write a list of folders, or ComfyUI's sections as in extra_model_paths.yaml."
        )
    return list(dict.fromkeys(folders))


def _parse_yaml(text: str) -> object:
    # Here, since most people have no such list.
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _parse_folders(plain: object, base: Path) -> Iterator[Path]:
    """Folders of a value: a text of one or more lines, a list, or a section with a base_path."""
    if isinstance(plain, str):
        for line in re.split(r"[\r\n;]+", plain):
            if line.strip():
                yield (base / Path(os.path.expandvars(line.strip())).expanduser()).absolute()
    elif isinstance(plain, list):
        for item in plain:
            yield from _parse_folders(item, base)
    elif isinstance(plain, Mapping):
        base_path = plain.get("base_path")
        below = (
            (base / Path(os.path.expandvars(base_path)).expanduser()).absolute() if isinstance(base_path, str) else base
        )
        for name, value in plain.items():
            if isinstance(value, Mapping) or _names_models(str(name)):
                yield from _parse_folders(value, below)


_MODEL_FIELDS = re.compile(
    r"^(?:path_)?(?:folders?|models?|checkpoints?|loras?|lora|embeddings?|vae|unet|diffusion_models|text_encoders?|clip|upscale_models|ESRGAN|RealESRGAN"
    r"|stable-diffusion|lycoris|ModelRoot)$",
    re.IGNORECASE,
)


def _names_models(name: str) -> bool:
    """Whether a field names folders that hold what is used here; others' (ControlNets) are left alone."""
    return _MODEL_FIELDS.match(name) is not None

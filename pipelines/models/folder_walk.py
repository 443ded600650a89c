"""Every file of the models folders: which folder says what it is for, and which cannot be looked at, and why."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.core.errors import ModelFileError, SettingsError
from pipelines.models.folder_lists import LISTS, read_folder_list
from pipelines.weights.gguf_files import read_weights_header
from pipelines.weights.kinds import FileKind, file_kind

__all__ = [
    "EMBEDDINGS",
    "LORAS",
    "UPSCALERS",
    "FolderFile",
    "Kinds",
    "ModelFolders",
]

LORAS, EMBEDDINGS, UPSCALERS = "loras", "embeddings", "upscalers"
_ROLES = {
    **dict.fromkeys(("loras", "lora", "lycoris", "locon"), LORAS),
    **dict.fromkeys(
        ("embeddings", "embedding", "textual_inversion", "textual-inversion", "textualinversion"), EMBEDDINGS
    ),
    **dict.fromkeys(("upscalers", "upscaler", "upscale_models", "esrgan", "realesrgan", "swinir", "dat"), UPSCALERS),
}
"""Folder names of ours and of AUTOMATIC1111, Forge, ComfyUI, SwarmUI, Fooocus and InvokeAI, in small letters."""

_OWN = frozenset({"metrics", "rewards", "tiny_vae", "schedules", "sliders", "starts", "wildcards"})
"""Folders at the top that other parts of the program read."""

_BESIDE = frozenset(
    {".txt", ".md", ".json", ".yaml", ".yml", ".toml", ".csv", ".html", ".htm", ".url", ".log", ".ini", ".info", ".py"}
    | {".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".mp4", ".webm", ".sha256", ".model", ".jinja", ".svg", ".db"}
)
"""Kinds of files that people and their programs keep beside weights, and which are no weights."""

MAX_DEPTH = 12
MAX_FILES = 20_000


@dataclasses.dataclass(frozen=True)
class FolderFile:
    """Describes a file, or a diffusers folder, that was found.

    Attributes:
        path: of it.
        role: "loras", "embeddings" or "upscalers" where a folder above it is named so, else "".
        problem: why it cannot be looked at, as a sentence; "" if it can.
    """

    path: Path
    role: str = ""
    problem: str = ""


class Kinds:
    """Says what files are, read from their headers once; a changed file is read again."""

    def __init__(self) -> None:
        self._cached: dict[str, tuple[tuple[int, int], FileKind | ModelFileError]] = {}
        self._lock = threading.Lock()

    def kind(self, path: Path) -> FileKind:
        """Return the kind of a file of weights.

        Raises:
            ModelFileError: it cannot be read.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise ModelFileError(f"{path.name} cannot be read ({error.strerror}).") from error
        stamp = (status.st_size, status.st_mtime_ns)
        with self._lock:
            cached = self._cached.get(str(path))
        if cached is None or cached[0] != stamp:
            cached = (stamp, _read_kind(path))
            with self._lock:
                self._cached[str(path)] = cached
        if isinstance(cached[1], ModelFileError):
            raise cached[1]
        return cached[1]


def _read_kind(path: Path) -> FileKind | ModelFileError:
    try:
        header = read_weights_header(path)
        return file_kind(header.tensors, header.metadata)
    except ModelFileError as error:
        return error


class ModelFolders:
    """Walks one or several folders of models.

    Args:
        first: the models folder itself; what is downloaded and kept goes there.
        further: more folders, whose files are listed too.
        follow_links: whether links that lead out of a folder are followed.
        kinds: what is known of files already.
    """

    def __init__(
        self, first: Path, further: Sequence[Path] = (), follow_links: bool = False, kinds: Kinds | None = None
    ):
        self.first, self.further, self.follow_links = first, tuple(further), follow_links
        self.kinds = kinds or Kinds()

    @property
    def all(self) -> tuple[Path, ...]:
        """The folders, each once, with those that the first one's own list names."""
        unique = {_resolve(path): path for path in reversed((self.first, *self.further, *self._read_lists()[0]))}
        return tuple(reversed(unique.values()))

    def _read_lists(self) -> tuple[list[Path], list[FolderFile]]:
        """The folders that lists in the first one name, and the lists that cannot be read."""
        folders: list[Path] = []
        problems = []
        for name in LISTS:
            if (self.first / name).is_file():
                try:
                    folders += read_folder_list(self.first / name)
                except SettingsError as error:
                    problems.append(FolderFile(self.first / name, problem=str(error)))
        return folders, problems

    def files(self) -> Iterator[FolderFile]:
        """Yield files and diffusers folders in order, folders inside folders too; each place once."""
        visited: set[Path] = set()
        remaining = MAX_FILES
        yield from self._read_lists()[1]
        for root in self.all:
            if root != self.first and not root.is_dir():
                yield FolderFile(root, problem=f"The folder {root.name} of the list of model folders is not there.")
                continue
            walk = _Walk(root, self.follow_links, visited, root == self.first)
            for file in walk.files(root, _find_role(root.name), 0):
                remaining -= 1
                if remaining < 0:
                    yield FolderFile(
                        root,
                        problem=f"The models folder holds more than {MAX_FILES} files; the rest is not listed. "
                        "Choose a smaller folder.",
                    )
                    return
                yield file


class _Walk:
    """Through one folder.

    Args:
        root: the folder.
        follow_links: whether links that lead out of it are followed.
        seen: real places of folders that were looked into.
        own: whether the program's other folders stand in it.
    """

    def __init__(self, root: Path, follow_links: bool, visited: set[Path], has_own_folders: bool):
        self._root, self._follow, self._visited, self._has_own_folders = root, follow_links, visited, has_own_folders

    def files(self, folder: Path, role: str, depth: int) -> Iterator[FolderFile]:
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            if depth:
                yield FolderFile(folder, role, f"The folder {folder.name} cannot be read ({error.strerror}).")
            return
        for name in names:
            if name.startswith(".") or (self._has_own_folders and depth == 0 and name.lower() in _OWN):
                continue
            yield from self._visit(folder / name, role, depth)

    def _visit(self, path: Path, role: str, depth: int) -> Iterator[FolderFile]:
        problem = self._explain_link(path)
        if problem:
            if path.suffix.lower() not in _BESIDE:
                yield FolderFile(path, role, problem)
        elif path.is_dir():
            yield from self._visit_folder(path, role, depth)
        elif path.is_file() and path.suffix.lower() not in _BESIDE:
            yield FolderFile(path, role)

    def _visit_folder(self, path: Path, role: str, depth: int) -> Iterator[FolderFile]:
        if (path / "model_index.json").is_file():
            yield FolderFile(path, role)
        elif (path / "quantization.json").is_file():
            return
        elif depth >= MAX_DEPTH:
            yield FolderFile(path, role, f"The folder {path.name} lies too deep in the models folder. Move it up.")
        elif (real := _resolve(path)) not in self._visited:
            # Links may lead in circles; every place is looked into once.
            self._visited.add(real)
            yield from self.files(path, _find_role(path.name) or role, depth + 1)

    def _explain_link(self, path: Path) -> str:
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return f"{path.name} is a link to something that is not there. Remove it, or put the file itself there."
        if self._follow or real.is_relative_to(_resolve(self._root)):
            return ""
        return (
            f"{path.name} is a link that leads out of the models folder, which is not followed. Start with "
            "--follow-links, or name its folder in model_folders.yaml of the models folder."
        )


def _find_role(name: str) -> str:
    return _ROLES.get(name.lower(), "")


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()

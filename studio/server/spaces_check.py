"""`python -m studio.spaces_check FOLDER`: what a Hugging Face Space would reject in a folder, before it is sent there.

Source: Hugging Face, Spaces configuration reference (https://huggingface.co/docs/hub/spaces-config-reference), Gradio
Spaces (https://huggingface.co/docs/hub/spaces-sdks-gradio), ZeroGPU (https://huggingface.co/docs/hub/spaces-zerogpu)
and Repository limits (https://huggingface.co/docs/hub/repositories-getting-started).
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import StepwiseError

__all__ = ["CHECKS", "find_problems", "main", "parse_front_matter"]

COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
SDKS = ("gradio", "docker", "static")
HARDWARE = (
    "cpu-basic", "cpu-upgrade", "cpu-xl", "zero-a10g", "t4-small", "t4-medium", "l4x1", "l4x4", "l40sx1", "l40sx4",
    "l40sx8", "a10g-small", "a10g-large", "a10g-largex2", "a10g-largex4", "a100-large", "a100x4", "a100x8", "h100",
    "h100x8", "h200", "h200x8",
)  # fmt: skip
FIELDS = {
    "title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "app_port",
    "base_path", "fullWidth", "header", "short_description", "models", "datasets", "tags", "thumbnail", "pinned",
    "license", "suggested_hardware", "suggested_storage", "startup_duration_timeout", "preload_from_hub",
    "hf_oauth", "hf_oauth_scopes", "hf_oauth_expiration_minutes", "hf_oauth_authorized_org", "disable_embedding",
    "custom_headers", "language", "library_name", "pipeline_tag",
}  # fmt: skip
NEEDED = ("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file")
LONGEST_DESCRIPTION = 60
PLAIN_BYTES = 10 * 2**20
"""A larger file must be stored in LFS."""

PYTHONS = ("3.10", "3.12")
"""What ZeroGPU offers; a Space on other hardware can have any."""

TORCH = ((2, 8), (2, 11))
"""Versions of PyTorch on ZeroGPU, the first and the last."""

_OR = "or send the folder with hf upload."
_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_VERSION = re.compile(r"\d+\.\d+(\.\d+)?\Z")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+\Z")
_SKIPPED = {".git", ".venv", "__pycache__", ".pytest_cache", ".ruff_cache", "node_modules"}


class Folder:
    """Represents a folder that is to become a Space.

    Args:
        path: of the folder.
        uploaded: whether `hf upload` sends it, which stores large and binary files in LFS by itself.
    """

    def __init__(self, path: Path, uploaded: bool = False):
        self.path, self.uploaded = path, uploaded
        readme = path / "README.md"
        self.readme = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else None
        self.matter = parse_front_matter(self.readme or "")

    def list_files(self) -> list[Path]:
        """List what would be sent: what git knows where there is a repository, else everything but caches."""
        if (self.path / ".git").exists():
            listing = subprocess.run(
                ["git", "ls-files", "-z"], cwd=self.path, capture_output=True, text=True, check=False
            )
            if listing.returncode == 0:
                return [path for name in listing.stdout.split("\0") if name and (path := self.path / name).is_file()]
        return sorted(
            path
            for path in self.path.rglob("*")
            if path.is_file() and not _SKIPPED & set(path.relative_to(self.path).parts)
        )

    def is_in_lfs(self, path: Path) -> bool:
        """Say whether .gitattributes sends a file to LFS."""
        rules = self.path / ".gitattributes"
        name = path.relative_to(self.path).as_posix()
        lines = rules.read_text(encoding="utf-8").splitlines() if rules.is_file() else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
        return any(fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(path.name, pattern) for pattern in patterns)


def parse_front_matter(readme: str) -> Mapping[str, Any] | None:
    """Parse the YAML block that a README begins with; None where there is none, or it cannot be read."""
    import yaml

    block = _MATTER.match(readme)
    if block is None:
        return None
    try:
        content = yaml.safe_load(block[1])
    except yaml.YAMLError:
        return None
    return content if isinstance(content, dict) else None


def _check_readme(folder: Folder) -> Iterator[str]:
    if folder.readme is None:
        yield "There is no README.md: a Space is configured in the YAML block at its beginning."
    elif folder.matter is None:
        yield "README.md begins with no YAML block between two lines of ---, or the block cannot be read."


def _check_fields(folder: Folder) -> Iterator[str]:
    matter = folder.matter or {}
    if folder.matter is not None:
        yield from (f"{name} is missing from the README's YAML block." for name in NEEDED if not matter.get(name))
    for name in sorted(matter.keys() - FIELDS):
        yield f"{name} is not a setting of a Space. Take it out of the README's YAML block, or check how it is written."


def _check_choice(name: str, choices: Sequence[str], folder: Folder) -> Iterator[str]:
    value = (folder.matter or {}).get(name)
    if value is not None and value not in choices:
        yield f"{name} is {value!r}. Choose one of: {', '.join(choices)}."


def _check_values(folder: Folder) -> Iterator[str]:
    matter = folder.matter or {}
    yield from _check_choice("colorFrom", COLORS, folder)
    yield from _check_choice("colorTo", COLORS, folder)
    yield from _check_choice("sdk", SDKS, folder)
    yield from _check_choice("suggested_hardware", HARDWARE, folder)
    emoji = matter.get("emoji")
    if emoji is not None and (not isinstance(emoji, str) or len(emoji) > 8 or emoji.isascii()):
        yield f"emoji is {emoji!r}, and must be a single emoji."
    for name in ("sdk_version", "python_version"):
        if name in matter and not (isinstance(matter[name], str) and _VERSION.match(matter[name])):
            yield (
                f'{name} is {matter[name]!r}. Write a version between quotation marks, like "6.31.0": '
                "YAML reads a bare 3.10 as 3.1."
            )
    text = matter.get("short_description", "")
    if not isinstance(text, str) or len(text) > LONGEST_DESCRIPTION:
        yield f"short_description has {len(str(text))} characters. At most {LONGEST_DESCRIPTION} are taken: shorten it."
    for name in ("models", "datasets"):
        for repository in matter.get(name) or ():
            if not (isinstance(repository, str) and _REPOSITORY.match(repository)):
                yield f"{name} names {repository!r}. Write repositories of the hub, as owner/name."


def _check_app(folder: Folder) -> Iterator[str]:
    name = (folder.matter or {}).get("app_file")
    if isinstance(name, str) and not (folder.path / name).is_file():
        yield f"app_file is {name!r}, and there is no such file."
    elif isinstance(name, str) and name.endswith(".py"):
        try:
            compile((folder.path / name).read_bytes(), name, "exec")
        except (SyntaxError, ValueError) as error:
            yield f"app_file {name!r} is not readable Python: {error}."


def _check_sizes(folder: Folder) -> Iterator[str]:
    if folder.uploaded:
        return
    for path in folder.list_files():
        name, size = path.relative_to(folder.path).as_posix(), path.stat().st_size
        if folder.is_in_lfs(path):
            continue
        if size > PLAIN_BYTES:
            yield f"{name} has {size / 2**20:.1f} MiB and is not in LFS. Run: git lfs track {name!r}, {_OR}"
        elif _is_binary(path):
            yield f"{name} is a binary file and not in LFS. Run: git lfs track '*{path.suffix}', {_OR}"


def _is_binary(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(8192)
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end < len(head) or len(head) < 8192  # a character that the end of the block cuts is none
    return b"\0" in head


def _check_requirements(folder: Folder) -> Iterator[str]:
    path, matter = folder.path / "requirements.txt", folder.matter or {}
    if not path.is_file():
        return
    from packaging.requirements import InvalidRequirement, Requirement

    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-"):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            yield f"requirements.txt says {text!r}, which is not a requirement."
            continue
        yield from _check_requirement(requirement, matter)


def _check_requirement(requirement: Any, matter: Mapping[str, Any]) -> Iterator[str]:
    version = str(matter.get("sdk_version", ""))
    if requirement.name == "gradio" and _VERSION.match(version) and version not in requirement.specifier:
        yield f"requirements.txt asks for {requirement}, and sdk_version is {version}: the Space installs the latter."
    if requirement.name == "torch" and matter.get("suggested_hardware") == "zero-a10g":
        versions = [f"{TORCH[0][0]}.{minor}.0" for minor in range(TORCH[0][1], TORCH[1][1] + 1)]
        if not any(one in requirement.specifier for one in versions):
            yield f"requirements.txt asks for {requirement}; ZeroGPU has torch {versions[0]} to {versions[-1]}."


def _check_python(folder: Folder) -> Iterator[str]:
    matter = folder.matter or {}
    version = matter.get("python_version", PYTHONS[0])
    if (
        isinstance(version, str)
        and matter.get("suggested_hardware") == "zero-a10g"
        and ".".join(version.split(".")[:2]) not in PYTHONS
    ):
        yield f"python_version is {version}. ZeroGPU has {' and '.join(PYTHONS)}."


CHECKS: Mapping[str, Callable[[Folder], Iterator[str]]] = {
    "README": _check_readme,
    "fields": _check_fields,
    "values": _check_values,
    "app_file": _check_app,
    "files": _check_sizes,
    "requirements": _check_requirements,
    "python": _check_python,
}
"""Name to what looks for one kind of problem and says each in a sentence."""


def find_problems(path: Path, uploaded: bool = False) -> list[str]:
    """Find everything that a Space would reject, as sentences that say what to do.

    Args:
        path: the folder that is to become the Space's repository.
        uploaded: whether `hf upload` sends it; a `git push` has to keep large and binary files in LFS itself.

    Raises:
        StepwiseError: there is no such folder.
    """
    if not path.is_dir():
        raise StepwiseError(f"There is no folder {str(path)!r}. Name the folder that holds the Space's README.md.")
    folder = Folder(path, uploaded)
    return [sentence for check in CHECKS.values() for sentence in check(folder)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each problem on a line; 0 when there is none, 1 when there are some, 2 when there is no folder."""
    parser = argparse.ArgumentParser(prog="python -m studio.spaces_check", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--uploaded", action="store_true", help="it is sent with hf upload, which takes care of LFS")
    flags = parser.parse_args(arguments)
    try:
        sentences = find_problems(flags.folder, flags.uploaded)
    except StepwiseError as error:
        print(f"spaces_check: {error}", file=sys.stderr)
        return 2
    print("\n".join(sentences) if sentences else "Nothing that a Space would reject.")
    return int(bool(sentences))


if __name__ == "__main__":
    sys.exit(main())

"""Fetching published models from the Hugging Face hub: safetensors only, resumable, file by file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipelines.core.errors import ModelMissingError
from pipelines.core.leases import megabytes
from pipelines.models.catalog import shorten_path
from pipelines.models.entry import CatalogEntry, Source
from pipelines.models.files import needed_files, read_index

__all__ = [
    "Hub",
    "HuggingFace",
    "Progress",
    "RemoteFile",
    "fetch_configs",
    "fetch_model",
    "fetch_source",
    "missing_sentence",
]

CONFIGS = (".json", ".txt", ".model", ".jinja", ".safetensors")

CLIENTS = {"httpx", "httpx2", "httpcore", "requests", "urllib3"}
"""Packages through which huggingface_hub's versions connect, and whose errors mean that it could not."""

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


class RemoteFile(NamedTuple):
    """Describes a file of a repository, and its bytes."""

    name: str
    size: int


class Hub(Protocol):
    """Says what the loader needs of the outside world; tests stand in for it."""

    def files(self, repository: str, revision: str) -> tuple[str, list[RemoteFile]]:
        """Return the commit that a revision means now, and the files of that commit."""

    def fetch(self, repository: str, commit: str, name: str, advance: Callable[[int], None]) -> Path:
        """Fetch the file on this machine, fetched or resumed where it is not.

        `advance` takes the bytes that arrived, while they arrive; what it raises ends the download.
        """

    def folder(self, repository: str, revision: str) -> Path | None:
        """Say what of the revision is on this machine already."""


class HuggingFace:
    """Reaches the hub through huggingface_hub and its cache; imports and connects on the first call.

    Args:
        offline: never connect.
    """

    def __init__(self, offline: bool = False):
        self.offline = offline

    def files(self, repository: str, revision: str) -> tuple[str, list[RemoteFile]]:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import OfflineModeIsEnabled

        if self.offline:
            raise OfflineModeIsEnabled("started without a network")
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=10)
        # The hub always gives both; the library's type also serves answers without them.
        return info.sha or "", [RemoteFile(file.rfilename, file.size or 0) for file in info.siblings or ()]

    def fetch(self, repository: str, commit: str, name: str, advance: Callable[[int], None]) -> Path:
        from huggingface_hub import constants, hf_hub_download

        # Xet's own threads swallow what a progress bar raises, so nothing could stop them in the middle of a file.
        constants.HF_HUB_DISABLE_XET = True
        return Path(hf_hub_download(repository, name, revision=commit, tqdm_class=_make_bar(advance)))

    def folder(self, repository: str, revision: str) -> Path | None:
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(repository, revision=revision, local_files_only=True))
        except (OSError, ValueError):
            return None


def _make_bar(advance: Callable[[int], None]) -> type:
    """A silent progress bar that tells how many bytes arrived."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: object, **kwargs: Any):
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

    return Bar


def fetch_model(
    hub: Hub, entry: CatalogEntry, models: Path, cancelled: Callable[[], bool], progress: Progress | None
) -> Path:
    """Fetch the missing files of a published model; returns its folder.

    Raises:
        ModelMissingError: the hub cannot be reached, or refuses.
        Cancelled: the person stopped it; the files that have arrived are kept for the next time.
    """
    counter = Counter(progress, cancelled)
    with _explained(entry, models):
        commit, files = hub.files(entry.repository, entry.revision)
        sizes = {file.name: file.size for file in files}
        first = hub.fetch(entry.repository, commit, "model_index.json", lambda count: None)
        parts, _ = read_index(first.parent)
        repository_parts = {name: classes for name, classes in parts.items() if name not in entry.parts}
        names = needed_files(sizes, repository_parts, entry.variant)
        counter.total = sum(sizes.get(name, 0) for name in names)
        _fetch_all(hub, entry.repository, commit, {name: sizes.get(name, 0) for name in names}, cancelled, counter)
    return first.parent


def fetch_configs(
    hub: Hub, entry: CatalogEntry, models: Path, cancelled: Callable[[], bool], progress: Progress | None
) -> Path:
    """Fetch the configurations and tokenizers of a published model, without weights; returns its folder.

    Raises:
        ModelMissingError: the hub cannot be reached, or refuses.
        Cancelled: the person stopped it.
    """
    counter = Counter(progress, cancelled)
    with _explained(entry, models):
        commit, files = hub.files(entry.repository, entry.revision)
        sizes = {file.name: file.size for file in files}
        first = hub.fetch(entry.repository, commit, "model_index.json", lambda count: None)
        names = needed_files(sizes, read_index(first.parent)[0], "")
        plain = {name: sizes.get(name, 0) for name in names if not name.endswith(".safetensors")}
        counter.total = sum(plain.values())
        _fetch_all(hub, entry.repository, commit, plain, cancelled, counter)
    return first.parent


def fetch_source(
    hub: Hub,
    entry: CatalogEntry,
    source: Source,
    models: Path,
    cancelled: Callable[[], bool],
    progress: Progress | None,
) -> Path:
    """Fetch the file or the folder of a part that comes from a repository of its own.

    Raises:
        ModelMissingError: the hub cannot be reached, or refuses.
        Cancelled: the person stopped it.
    """
    counter = Counter(progress, cancelled)
    prefix = f"{source.subfolder}/" if source.subfolder else ""
    with _explained(entry, models):
        commit, files = hub.files(source.repository, source.revision)
        sizes = {file.name: file.size for file in files if _belongs_to_source(file.name, source, prefix)}
        if not sizes:
            what = source.file or prefix or "safetensors files"
            raise ModelMissingError(f"{source.repository} has no {what} any more. Choose another model.")
        counter.total = sum(sizes.values())
        paths = _fetch_all(hub, source.repository, commit, sizes, cancelled, counter)
    return paths[0] if source.file else paths[0].parent


def _belongs_to_source(name: str, source: Source, prefix: str) -> bool:
    if source.file:
        return name == source.file
    rest = name[len(prefix) :]
    return name.startswith(prefix) and "/" not in rest and rest.endswith(CONFIGS) and ".fp16." not in rest


def _fetch_all(
    hub: Hub, repository: str, commit: str, sizes: Mapping[str, int], cancelled: Callable[[], bool], counter: Counter
) -> list[Path]:
    paths: list[Path] = []
    for name, size in sizes.items():
        _raise_if(cancelled)
        before = counter.done
        paths.append(hub.fetch(repository, commit, name, counter.advance))
        counter.reach(before + size)
    return paths


def _raise_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        from pipelines.core.cancelling import Cancelled

        raise Cancelled


class Counter:
    """Counts bytes that arrived, for a progress callback.

    Args:
        progress: called with bytes done and in all, or None.
        cancelled: whether the person stopped it.
    """

    def __init__(self, progress: Progress | None, cancelled: Callable[[], bool]):
        self.progress, self.cancelled, self.done, self.total = progress, cancelled, 0, 0

    def advance(self, count: int) -> None:
        """So many more arrived.

        Raises:
            Cancelled: the person stopped it; raised through the client's loop over the file.
        """
        self.reach(self.done + count)
        _raise_if(self.cancelled)

    def reach(self, done: int) -> None:
        """So many are there, e.g. because a file was in the cache already."""
        self.done = min(done, self.total) if self.total else done
        if self.progress:
            self.progress(self.done, self.total)


class _explained:
    """Turns what the hub's client raises into one sentence with what to do."""

    def __init__(self, entry: CatalogEntry, models: Path):
        self.entry, self.models = entry, models

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception) or type(error).__module__.startswith("pipelines."):
            return
        words = type(error).__name__
        if words in {"GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"}:
            raise ModelMissingError(_explain_refusal(self.entry, words)) from error
        if isinstance(error, OSError) and error.errno == 28:
            raise ModelMissingError(
                f"The disk is full; {self.entry.label} needs {_describe_download(self.entry)}. "
                "Make room and try again: what has arrived is kept."
            ) from error
        if isinstance(error, (OSError, TimeoutError)) or type(error).__module__.split(".")[0] in CLIENTS:
            raise ModelMissingError(missing_sentence(self.entry, self.models)) from error


def _explain_refusal(entry: CatalogEntry, words: str) -> str:
    gate = (
        f"Read and accept its license at https://huggingface.co/{entry.repository}, "
        "log in with 'hf auth login' and try again."
    )
    if entry.gated or words == "GatedRepoError":
        return f"{entry.label} is handed out only to people who accepted its license. {gate}"
    return f"{entry.label} is no longer available ({entry.repository} at {entry.revision}). Choose another model."


def _describe_download(entry: CatalogEntry) -> str:
    return f"a download of about {megabytes(entry.size_bytes)}" if entry.size_bytes else "a download of unknown size"


def missing_sentence(entry: CatalogEntry, models: Path, missing: Sequence[str] = ()) -> str:
    """Say what is missing, how large it is, under which licence, and where to put it."""
    licence = f", license {entry.licence}" if entry.licence else f", license to be read at {entry.licence_url}"
    what = f" It lacks: {'; '.join(missing)}" if missing else ""
    return (
        f"{entry.label} is not on this machine and the hub cannot be reached. It is "
        f"{_describe_download(entry)}{licence}: put the folder of {entry.repository} into "
        f"{shorten_path(models / entry.repository.split('/')[-1])}, or connect and try again.{what}"
    )

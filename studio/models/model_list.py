"""What stands on the shelf of models: where each is, what is in memory, and loads and downloads behind the page's back.

Loads and downloads run in threads of their own, a few at a time, so that neither holds up the queue of jobs.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.denoiser import Cancelled
from pipelines.core.errors import BusyError, ModelError, StepwiseError
from pipelines.models.catalog_folder import LoraEntry, scan_loras
from pipelines.models.downloads import Hub, RemoteFile
from pipelines.models.entry import CatalogEntry
from pipelines.models.loader import HOST
from pipelines.models.places import ModelPlaces

if TYPE_CHECKING:
    from pipelines.models.catalog import Catalog
    from pipelines.models.loader import Loader

__all__ = [
    "DOWNLOAD",
    "LOAD",
    "Errand",
    "ModelList",
    "Segment",
    "lora_row",
    "memory_of",
    "model_row",
]

MOST_AT_ONCE = 2
LOAD, DOWNLOAD = "load", "download"
RUNNING, DONE, FAILED, CANCELLED = "running", "done", "failed", "cancelled"

_LOG = logging.getLogger("stepwise.models")


@dataclasses.dataclass
class Errand:
    """A load or a download on its way.

    Attributes:
        key: of the model.
        what: "load" or "download".
        status: "running", "done", "failed" or "cancelled".
        stage: "Downloading" or "Loading".
        done, total: bytes; a total of 0 is not known yet.
        message: what went wrong, as a sentence.
    """

    key: str
    what: str
    status: str = RUNNING
    stage: str = ""
    done: int = 0
    total: int = 0
    message: str = ""
    stop: threading.Event = dataclasses.field(default_factory=threading.Event, repr=False)


@dataclasses.dataclass(frozen=True)
class Segment:
    """A share of the memory: what one model, or several together, hold of it."""

    models: tuple[str, ...]
    bytes: int
    in_use: bool


class _OnlyHere:
    """A hub that never connects: for the question whether a model is on this machine already."""

    def __init__(self, hub: Hub):
        self._hub = hub

    def files(self, repository: str, revision: str) -> tuple[str, list[RemoteFile]]:
        raise OSError("only what is here")

    def fetch(self, *_: Any) -> Path:
        raise OSError("only what is here")

    def folder(self, repository: str, revision: str) -> Path | None:
        return self._hub.folder(repository, revision)


class ModelList:
    """The models of a studio as a person sees them; safe to use from many threads.

    Args:
        catalog: the models that there are.
        loader: loads and downloads them.
    """

    def __init__(self, catalog: Catalog, loader: Loader):
        self._catalog, self._loader = catalog, loader
        self._errands: dict[str, Errand] = {}
        self._here: dict[str, bool] = {}
        self._lock = threading.Lock()

    def rescan(self) -> None:
        """Look into the models folder again."""
        self._catalog.rescan()
        with self._lock:
            self._here.clear()
            self._errands = {key: one for key, one in self._errands.items() if one.status == RUNNING}

    def here(self, entry: CatalogEntry) -> bool:
        """Whether all of a model's files are on this machine, without asking anybody else."""
        if entry.local:
            return not entry.problem
        with self._lock:
            if entry.key in self._here:
                return self._here[entry.key]
        found = self._complete(entry)
        with self._lock:
            self._here[entry.key] = found
        return found

    def _complete(self, entry: CatalogEntry) -> bool:
        places = self._loader.places
        own = places.catalog.folder / entry.repository.split("/")[-1]
        if not own.is_dir() and places.hub.folder(entry.repository, entry.revision) is None:
            return False
        only = ModelPlaces(places.catalog, _OnlyHere(places.hub))
        try:
            only.parts(entry, self._variants(entry), lambda: False, None)
            return entry.lora is None or only.source(entry, entry.lora).exists()
        except (ModelError, OSError):
            return False

    def _variants(self, entry: CatalogEntry) -> Sequence[str]:
        return ("", entry.variant) if self._loader.device == "cpu" else (entry.variant or "fp16", "")

    def loras(self) -> list[LoraEntry]:
        """The LoRAs of the models folder, the unusable ones with their problem."""
        return scan_loras(self._catalog.folder)

    def errand(self, key: str) -> Errand | None:
        """The last load or download of a model."""
        with self._lock:
            return self._errands.get(key)

    def errands(self) -> list[dict[str, Any]]:
        """The last load or download of each model, as plain values for programs."""
        names = ("key", "what", "status", "stage", "done", "total", "message")
        with self._lock:
            return [{name: getattr(one, name) for name in names} for one in self._errands.values()]

    @property
    def busy(self) -> bool:
        """Whether anything is on its way."""
        with self._lock:
            return any(one.status == RUNNING for one in self._errands.values())

    def start(self, key: str, what: str) -> Errand:
        """Load or download a model in the background; one that is on its way already goes on.

        Raises:
            UnknownMethodError: no model has this key.
            ModelError: it cannot be used, and why.
            BusyError: enough are on their way.
        """
        entry = self._catalog[key]
        if entry.problem:
            raise ModelError(entry.problem)
        with self._lock:
            running = [one for one in self._errands.values() if one.status == RUNNING]
            for one in running:
                if one.key == key:
                    return one
            if len(running) >= MOST_AT_ONCE:
                raise BusyError(f"{len(running)} models are on their way already. Wait for one of them, or cancel it.")
            errand = self._errands[key] = Errand(key, what)
        threading.Thread(target=self._run, args=(errand, entry), name=f"model-{what}", daemon=True).start()
        return errand

    def cancel(self, key: str) -> bool:
        """Stop what is on its way for a model; what has arrived of a download is kept."""
        errand = self.errand(key)
        if errand is None or errand.status != RUNNING:
            return False
        errand.stop.set()
        return True

    def release(self, key: str) -> bool:
        """Free a model's memory: False while a job still uses it, which frees it at its end.

        Raises:
            UnknownMethodError: no model has this key.
        """
        return self._loader.release(self._catalog[key].key)

    def _run(self, errand: Errand, entry: CatalogEntry) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            if errand.stop.is_set():
                raise Cancelled
            errand.stage, errand.done, errand.total = stage, done, total

        try:
            if errand.what == DOWNLOAD:
                self._download(errand, entry, progress)
            else:
                self._loader.lora_files(entry.key, errand.stop.is_set, progress)
                with self._loader.model(entry.key, errand.stop.is_set, progress):
                    pass
            errand.status = DONE
        except Cancelled:
            errand.status = CANCELLED
        except StepwiseError as error:
            errand.message, errand.status = str(error), FAILED
        except Exception:  # whatever breaks here must not leave the page waiting
            _LOG.exception("the %s of %s failed", errand.what, entry.key)
            errand.message, errand.status = f"The {errand.what} of {entry.label} failed; the log says more.", FAILED
        with self._lock:
            self._here.pop(entry.key, None)

    def _download(self, errand: Errand, entry: CatalogEntry, progress: Any) -> None:
        loader = self._loader
        loader.places.parts(
            entry, self._variants(entry), errand.stop.is_set, lambda done, total: progress("Downloading", done, total)
        )
        loader.lora_files(entry.key, errand.stop.is_set, progress)


def memory_of(loader: Loader) -> tuple[list[Segment], int]:
    """What models hold of the device's memory, the largest first, and the bytes that they may hold in all."""
    held: dict[tuple[str, ...], list[Any]] = {}
    for row in loader.memory():
        if row.device == HOST:
            continue  # in the computer's memory, which has a budget of its own
        held.setdefault(row.models, []).append(row)
    segments = [
        Segment(models, sum(row.bytes for row in rows), any(row.in_use for row in rows))
        for models, rows in held.items()
    ]
    return sorted(segments, key=lambda one: -one.bytes), loader.cache.limit


def model_row(entry: CatalogEntry, here: bool, loaded: bool) -> Mapping[str, Any]:
    """A model as plain values for programs."""
    where = "problem" if entry.problem else "here" if here else "hub"
    return {
        "key": entry.key,
        "label": entry.label,
        "family": entry.family,
        "kind": entry.kind,
        "size_bytes": entry.size_bytes,
        "licence": entry.licence,
        "licence_url": entry.licence_url,
        "gated": entry.gated,
        "repository": entry.repository,
        "where": where,
        "loaded": loaded,
        "problem": entry.problem,
        "notes": entry.notes,
    }


def lora_row(lora: LoraEntry) -> Mapping[str, Any]:
    """A LoRA as plain values for programs."""
    return {
        "key": lora.key,
        "label": lora.label,
        "family": lora.family,
        "size_bytes": lora.size_bytes,
        "problem": lora.problem,
    }

"""The models as a person sees them: where each is, what is in memory, and loads and downloads in the background.

Loads and downloads run in threads of their own, a few at a time, so that neither holds up the queue of jobs.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import BusyError, ModelError, StepwiseError
from pipelines.models.catalog_folder import EmbeddingEntry, LoraEntry, UpscalerEntry
from pipelines.models.downloads import Hub, RemoteFile
from pipelines.models.entry import CatalogEntry
from pipelines.models.places import ModelPlaces
from studio.models.descriptions import describe_embedding, describe_lora, describe_model, describe_upscaler
from studio.models.memory_segments import Segment, list_memory_segments

if TYPE_CHECKING:
    from pipelines.models.catalog import Catalog
    from pipelines.models.loader import Loader

__all__ = [
    "DOWNLOAD",
    "LOAD",
    "ModelList",
    "Segment",
    "Transfer",
    "describe_embedding",
    "describe_lora",
    "describe_model",
    "describe_upscaler",
    "list_memory_segments",
]

MOST_AT_ONCE = 2
LOAD, DOWNLOAD = "load", "download"
RUNNING, DONE, FAILED, CANCELLED = "running", "done", "failed", "cancelled"

_LOG = logging.getLogger("stepwise.models")


@dataclasses.dataclass
class Transfer:
    """Describes a load or a download on its way.

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


class _OnlyHere:
    """A hub that never connects: for the question whether a model is on this machine already."""

    def __init__(self, hub: Hub):
        self._hub = hub

    def files(self, repository: str, revision: str) -> tuple[str, list[RemoteFile]]:
        raise OSError("only what is here")

    def fetch(self, *_: object) -> Path:
        raise OSError("only what is here")

    def folder(self, repository: str, revision: str) -> Path | None:
        return self._hub.folder(repository, revision)


class ModelList:
    """Lists the models of a studio as a person sees them; safe to use from many threads.

    Args:
        catalog: the models that there are.
        loader: loads and downloads them.
        others: of further devices; a model is loaded where most memory is free.
    """

    def __init__(self, catalog: Catalog, loader: Loader, *others: Loader):
        self._catalog, self._loader, self._loaders = catalog, loader, (loader, *others)
        self._transfers: dict[str, Transfer] = {}
        self._is_here_by_key: dict[str, bool] = {}
        self._lock = threading.Lock()

    def rescan(self) -> None:
        """Look into the models folder again."""
        self._catalog.rescan()
        with self._lock:
            self._is_here_by_key.clear()
            self._transfers = {key: one for key, one in self._transfers.items() if one.status == RUNNING}

    def is_here(self, entry: CatalogEntry) -> bool:
        """Say whether all of a model's files are on this machine, without asking anybody else."""
        if entry.local:
            return not entry.problem
        with self._lock:
            if entry.key in self._is_here_by_key:
                return self._is_here_by_key[entry.key]
        is_here = self._is_complete(entry)
        with self._lock:
            self._is_here_by_key[entry.key] = is_here
        return is_here

    def _is_complete(self, entry: CatalogEntry) -> bool:
        places = self._loader.places
        own_folder = places.catalog.folder / entry.repository.split("/")[-1]
        if not own_folder.is_dir() and places.hub.folder(entry.repository, entry.revision) is None:
            return False
        local_places = ModelPlaces(places.catalog, _OnlyHere(places.hub))
        try:
            local_places.parts(entry, self._variants(entry), lambda: False, None)
            return entry.lora is None or local_places.source(entry, entry.lora).exists()
        except (ModelError, OSError):
            return False

    def _variants(self, entry: CatalogEntry) -> Sequence[str]:
        return ("", entry.variant) if self._loader.device == "cpu" else (entry.variant or "fp16", "")

    def loras(self) -> list[LoraEntry]:
        """List the LoRAs of the models folder, the unusable ones with their problem."""
        return self._catalog.loras()

    def upscalers(self) -> list[UpscalerEntry]:
        """Return the upscalers, the unusable ones with their problem."""
        return self._catalog.upscalers()

    def embeddings(self) -> list[EmbeddingEntry]:
        """Return the textual-inversion embeddings, the unusable ones with their problem."""
        return self._catalog.embeddings()

    def get_transfer(self, key: str) -> Transfer | None:
        """Return the last load or download of a model."""
        with self._lock:
            return self._transfers.get(key)

    def list_transfers(self) -> list[dict[str, Any]]:
        """List the last load or download of each model, as plain values for programs."""
        names = ("key", "what", "status", "stage", "done", "total", "message")
        with self._lock:
            return [{name: getattr(one, name) for name in names} for one in self._transfers.values()]

    @property
    def busy(self) -> bool:
        """Say whether anything is on its way."""
        with self._lock:
            return any(one.status == RUNNING for one in self._transfers.values())

    def start(self, key: str, what: str) -> Transfer:
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
            running_transfers = [
                transfer_under_way
                for transfer_under_way in self._transfers.values()
                if transfer_under_way.status == RUNNING
            ]
            for transfer_under_way in running_transfers:
                if transfer_under_way.key == key:
                    return transfer_under_way
            if len(running_transfers) >= MOST_AT_ONCE:
                raise BusyError(
                    f"{len(running_transfers)} models are on their way already. Wait for one of them, or cancel it."
                )
            transfer = self._transfers[key] = Transfer(key, what)
        threading.Thread(target=self._run, args=(transfer, entry), name=f"model-{what}", daemon=True).start()
        return transfer

    def cancel(self, key: str) -> bool:
        """Stop what is on its way for a model; what has arrived of a download is kept."""
        transfer = self.get_transfer(key)
        if transfer is None or transfer.status != RUNNING:
            return False
        transfer.stop.set()
        return True

    def release(self, key: str) -> bool:
        """Free a model's memory: False while a job still uses it, which frees it at its end.

        Raises:
            UnknownMethodError: no model has this key.
        """
        # A list, so that every device is asked and not only those before the first where it is in use.
        return all([loader.release(self._catalog[key].key) for loader in self._loaders])  # noqa: C419

    def _run(self, transfer: Transfer, entry: CatalogEntry) -> None:
        def report_progress(stage: str, done: int, total: int) -> None:
            transfer.stage, transfer.done, transfer.total = stage, done, total

        try:
            if transfer.what == DOWNLOAD:
                self._download(transfer, entry, report_progress)
            else:
                self._loader.lora_files(entry.key, transfer.stop.is_set, report_progress)
                freest = max(self._loaders, key=lambda one: one.cache.limit - one.cache.used_bytes)
                with freest.model(entry.key, transfer.stop.is_set, report_progress):
                    pass
            transfer.status = DONE
        except Cancelled:
            transfer.status = CANCELLED
        except StepwiseError as error:
            transfer.message, transfer.status = str(error), FAILED
        except Exception:  # whatever breaks here must not leave the page waiting
            _LOG.exception("the %s of %s failed", transfer.what, entry.key)
            transfer.message, transfer.status = (
                f"The {transfer.what} of {entry.label} failed; the log says more.",
                FAILED,
            )
        with self._lock:
            self._is_here_by_key.pop(entry.key, None)

    def _download(self, transfer: Transfer, entry: CatalogEntry, progress: Any) -> None:
        loader = self._loader
        loader.places.parts(
            entry, self._variants(entry), transfer.stop.is_set, lambda done, total: progress("Downloading", done, total)
        )
        loader.lora_files(entry.key, transfer.stop.is_set, progress)

"""What tasks use of the studio: models, results and limits, and what they keep between jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from pipelines.models.extras import Extras

if TYPE_CHECKING:
    import numpy as np

    from pipelines.core.schedule import NoiseSchedule
    from pipelines.core.types import Choice, LoraChoice, Request, Traits
    from pipelines.families.base import Family
    from pipelines.families.stock import StockPipeline
    from pipelines.models.catalog import Catalog
    from pipelines.requests.limits import Limits
    from pipelines.schedules.learned import LearnedSchedules
    from pipelines.workflows.video.request import VideoRequest
    from studio.jobs.job import Job
    from studio.results.given import GivenPictures
    from studio.results.records import Record
    from studio.results.store import Store

__all__ = ["TaskCaches", "TaskContext"]

Value = TypeVar("Value")


class TaskCaches:
    """Holds what tasks keep from one job for the next: each studio has its own, and only its worker uses it."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def get(self, task: str, make: Callable[[], Value]) -> Value:
        """Return what a task keeps, made when it is asked for first.

        Args:
            task: key of the task.
            make: a class or function that takes nothing, always the same for a task.
        """
        if task not in self._values:
            self._values[task] = make()
        return cast("Value", self._values[task])


class TaskContext(Protocol):
    """Declares all that a task may use beside its request and its job.

    The Studio is one in its own process; `studio.tasks.forked.ForkedContext` is the one of a ZeroGPU Space's worker,
    where nothing may wait for a lock that the parent process held.
    """

    @property
    def limits(self) -> Limits:
        """Return the caps of every request."""

    @property
    def catalog(self) -> Catalog:
        """Return the models that there are."""

    @property
    def store(self) -> Store:
        """Return the results."""

    @property
    def learned(self) -> LearnedSchedules:
        """Return the learned schedules that this studio knows: the shipped ones and those of its models folder."""

    @property
    def given(self) -> GivenPictures:
        """Return the pictures that people gave to steer runs."""

    @property
    def caches(self) -> TaskCaches:
        """Return what tasks keep between jobs."""

    @property
    def device(self) -> str:
        """Name where models are loaded: "cpu", "cuda" or "mps"."""

    def find_result(self, id: str, owner: str) -> Record:
        """Find a stored result that this owner of a job may see.

        Raises:
            StoreError: there is none.
        """

    def traits(self, model: str) -> Traits | None:
        """Tell what methods ask of this model; None while it cannot be said without loading it."""

    def noise_schedule(self, model: str) -> NoiseSchedule | None:
        """Tell a model's own noise schedule; None while it cannot be said without loading it."""

    def model(self, key: str, job: Job, extras: Extras = Extras()) -> AbstractContextManager[Family | StockPipeline]:
        """Lease a model for as long as the context lasts.

        Args:
            key: of the catalog.
            job: receives the progress of loading, and its cancel ends it.
            extras: parts of the models folder that are taken besides, or in the place of the model's own.

        Raises:
            ModelError: it is not there or broken.
            SettingsError: a part does not fit it.
            Cancelled: the job was stopped while it loaded.
        """

    def quantized(self, key: str, choice: Choice, full: Family, job: Job) -> AbstractContextManager[Family]:
        """Lease a quantized copy of a model for as long as the context lasts.

        Args:
            key: of the model in full precision.
            choice: of the quantizer table.
            full: that model, which the caller holds.
            job: whose cancel counts.

        Raises:
            ModelError: it cannot be quantized.
            Cancelled: the job was stopped.
        """

    def require_live(self) -> None:
        """Raise SettingsError where what a page says does not reach a job that runs."""

    def has_waiting(self) -> bool:
        """Say whether jobs wait for the device, for which one without an end of its own steps aside."""

    def require_keeping(self) -> None:
        """Raise SettingsError where a quantized model that is made now could not be used later."""

    def keep_quantized(self, model: str, choice: Choice, cancelled: Callable[[], bool]) -> str:
        """Write a quantized copy of a model into the models folder; returns the copy's key.

        Raises:
            StepwiseError: it cannot be made or written, and why.
        """

    def disk_bytes(self, key: str, family: Family) -> int | None:
        """Return the bytes of the files of a loaded model's network; None if it has none of its own."""

    def lora_path(self, name: str, model: str = "") -> Path:
        """Find the file of a LoRA of the models folder.

        Args:
            name: untrusted.
            model: key of the chosen one, for the names in the refusal.

        Raises:
            LoraError: there is none of this name, or it cannot be used.
        """

    def lora_key(self, name: str, model: str = "") -> str:
        """Find the key of the LoRA that a prompt names.

        Args:
            name: untrusted.
            model: key of the chosen one, for the names in the refusal.

        Raises:
            LoraError: there is none of this name; the message has the nearest names of those that fit the model.
        """

    def load_loras(self, choices: Sequence[LoraChoice]) -> list[tuple[Path, float]]:
        """Find the files of LoRAs and their weights, as `Family.loras` takes them."""

    def expand(self, prompt: str, seed: int, stream: str = "") -> str:
        """Draw the wildcards of a prompt; draws of another stream are independent of these."""

    def release_pictures(self, pictures: np.ndarray, model: str, job: Job, cell: int = 0) -> np.ndarray:
        """Give finished pictures as they may be shown: checked and marked, where the server does so.

        Every task shows a picture only after this. Figures are measured before it.

        Args:
            pictures: (B, H, W, 3), uint8, as the model made them.
            model: that made them.
            job: whose they are.
            cell: of the job; its note says where a picture is withheld.

        Raises:
            ModelFileError: the safety checker cannot be loaded.
        """

    def save_picture(
        self,
        image: np.ndarray,
        request: Request,
        job: Job,
        index: int = 0,
        figures: Mapping[str, object] | None = None,
        unread: Collection[str] = (),
        drawn: tuple[int, int] | None = None,
    ) -> str:
        """Store one finished picture (H, W, 3), uint8, with its settings inside; returns its id.

        Args:
            image: the picture.
            request: the settings that made it.
            job: whose result it is.
            index: of the cell or of the picture in its batch, from 0.
            figures: what was measured of it, by name.
            unread: methods of the request that its model took no notice of, which the file must not claim.
            drawn: (width, height) that the request drew, in pixels, where the picture was enlarged after that.

        Raises:
            StoreError: it cannot be written.
        """

    def encode_clip(self, frames: np.ndarray, request: VideoRequest) -> bytes:
        """Encode a finished clip (F, H, W, 3), uint8, as a file with its settings inside.

        Raises:
            StoreError: it cannot be written in this format.
        """

    def save_clip(
        self,
        data: bytes,
        frames: np.ndarray,
        request: VideoRequest,
        job: Job,
        figures: Mapping[str, object] | None = None,
    ) -> str:
        """Store one finished clip with its settings beside it; returns its id.

        Args:
            data: the file that `encode_clip` made.
            frames: of the clip, (F, H, W, 3), uint8.
            request: the settings that made it.
            job: whose result it is.
            figures: what was measured of it, by name.

        Raises:
            StoreError: it cannot be written.
        """

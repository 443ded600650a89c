"""A search on a loaded model: the population as it evolves, and the best picture of it, also where it was stopped."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError, SettingsError, StoreError
from pipelines.core.types import Choice, Request, Traits
from pipelines.families.base import Family
from pipelines.requests.search import Found, check_search, is_searched, resolve_search, run_search
from pipelines.requests.text_to_image import resolve_size
from pipelines.rewards.base import RewardSources
from pipelines.search import SEARCHES
from pipelines.search.base import Candidate
from studio.jobs.job import Job, JobStatus, Population, SearchedPicture

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["check", "run", "sources_of"]

SHOWN = 15
"""Pictures of the population that are shown beside the best."""


def sources_of(context: TaskContext, owner: str | None) -> RewardSources:
    """Say where rewards find their weights and pictures.

    Args:
        context: of the task.
        owner: who asks for a picture; None where that is not known yet, which finds out only whether there is one.
    """

    def find_picture(name: str) -> np.ndarray:
        try:
            record = context.store.get(name) if owner is None else context.find_result(name, owner)
            with Image.open(record.path) as picture:
                return np.array(picture.convert("RGB"))
        except StoreError as error:
            raise SettingsError(str(error)) from error
        except OSError as error:
            raise SettingsError(f"The result {name!r} is no picture. Name a picture of the gallery.") from error

    return RewardSources(context.catalog.folder, find_picture, context.device)


def check(request: Request, traits: Traits | None, context: TaskContext) -> None:
    """Check all of a request's search that can be said before it queues; one without a search passes.

    Raises:
        StepwiseError: the search cannot be made, and what to do.
    """
    if is_searched(request):
        check_search(request, traits, sources_of(context, None))


def run(request: Request, family: object, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job, the model already borrowed and its LoRAs not yet applied.

    Raises:
        Cancelled: it was stopped; what it has found is stored nevertheless.
    """
    if not isinstance(family, Family):
        label = SEARCHES[request.search.key].label
        raise MethodFitError(f"{label} needs a model that runs in this studio's own loop. Choose No search.")
    request = resolve_size(request, family)
    job.set_status(JobStatus.RUNNING)
    with family.loras(context.load_loras(request.loras)):
        search, problem = resolve_search(request, family, sources_of(context, job.owner), job.cancelled)
        report = _Report(request, search.settings.budget, job, context)
        try:
            for found in run_search(search, problem):
                report.show(found)
        except Cancelled:
            report.store(stopped=True)
            raise
    report.store(stopped=False)


class _Report:
    """Tells a job what its search has found."""

    def __init__(self, request: Request, budget: int, job: Job, context: TaskContext):
        self.request, self.budget, self.job, self.context = request, budget, job, context
        self._latest: deque[SearchedPicture] = deque(maxlen=SHOWN)
        self._best: tuple[Candidate, SearchedPicture] | None = None
        self._curve: list[tuple[float, float]] = []
        self._found: Found | None = None
        self._start = time.monotonic()

    def show(self, found: Found) -> None:
        """Show the population."""
        self._found = found
        shown = {id(candidate): self._release(candidate) for candidate in found.candidates[-SHOWN:]}
        self._latest.extend(shown.values())
        if self._best is None or self._best[0] is not found.best:
            self._best = found.best, shown.get(id(found.best)) or self._release(found.best)
            self._curve.append((found.spent, found.best.reward))
        self.job.update_cell(0, population=self._population(found))

    def _population(self, found: Found) -> Population:
        best = self._best[1] if self._best else self._release(found.best)
        return Population(best, tuple(self._latest), found.judged, found.spent, self.budget, tuple(self._curve))

    def _release(self, candidate: Candidate) -> SearchedPicture:
        """The picture as it may be shown."""
        (image,) = self.context.release_pictures(candidate.image[None], self.request.model, self.job)
        return SearchedPicture(candidate.name, image, candidate.reward, candidate.finished, candidate.seed)

    def store(self, stopped: bool) -> None:
        """Show the best picture, and save it; nothing where none was found."""
        found = self._found
        if found is None or self._best is None:
            return
        best, request = found.best, self.request
        if stopped:
            settings = {**request.search.settings, "stopped_after": found.judged}
            request = request.replace(search=Choice(request.search.key, settings))
        image, figures = self._best[1].image, self._figures(found, stopped)
        self.job.update_cell(0, images=image[None], figures=figures, note=_note(best, found, stopped))
        size = (request.width, request.height)
        result = self.context.save_picture(image, request, self.job, figures=figures, drawn=size)
        self.job.update_cell(0, results=(result,))

    def _figures(self, found: Found, stopped: bool) -> Mapping[str, Any]:
        search = {
            "reward": found.best.reward,
            "judged": found.judged,
            "picture": found.best.name,
            "finished": found.best.finished,
            "seed": found.best.seed,
            "stopped": stopped,
        }
        return {"evaluations": round(found.spent, 3), "seconds": time.monotonic() - self._start, "search": search}


def _note(best: Candidate, found: Found, stopped: bool) -> str:
    kept = "Stopped: the best so far is kept." if stopped else ""
    unfinished = "" if best.finished else "It is an estimate part of the way, since no picture was finished."
    alone = "" if best.seed is not None else "No seed alone makes it: the search with its settings does."
    return " ".join(filter(None, [f"Best of {found.judged}: {best.name}.", kept, unfinished, alone]))

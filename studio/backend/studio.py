"""The studio: page, endpoints, command line and tests all go through this one object."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping

import numpy as np

from pipelines.core.devices import applied_device
from pipelines.core.errors import BusyError, SettingsError, StepwiseError, UnknownMethodError
from pipelines.core.types import Choice
from studio import infotext
from studio.backend.acts import see_results, write_act
from studio.backend.decoding import FrameDecoder
from studio.backend.device_context import DeviceContext
from studio.backend.models import StudioModels
from studio.backend.release import PictureRelease
from studio.backend.saving import ResultSaver
from studio.backend.settings import StudioSettings
from studio.backend.work import build_zero_engine, estimate_work
from studio.jobs.history import JobHistory
from studio.jobs.job import Job
from studio.jobs.local_engine import LocalEngine
from studio.jobs.speed import Speeds
from studio.jobs.tally import Tally
from studio.jobs.waiting_list import WaitingJob, WaitingList
from studio.models.model_list import LOAD
from studio.results.described import find_typed_prompts
from studio.results.given import GivenPictures
from studio.results.housekeeping import Housekeeper
from studio.results.store import Record, Store
from studio.results.visible import VisibleResults
from studio.safety.audit import AuditLog
from studio.safety.people import PROGRAM, Person
from studio.tasks import TASKS
from studio.tasks.base import Task
from studio.tasks.context import TaskCaches
from studio.tasks.finished_runs import FROM_CACHE
from studio.tasks.seeds import draw_omitted_seeds

__all__ = ["QUEUE", "Studio"]

_LOG = logging.getLogger("stepwise.engine")
QUEUE = "queue.sqlite"
"""In the results folder: the jobs that wait."""


class Studio(StudioModels):
    """Holds models, jobs and results: the `TaskContext` of the tasks that run in this process.

    Args:
        settings: where things are and how much may be used.
        tasks: what it can be asked to do, by key.

    Attributes:
        limits: the caps of every request.
        people: who may see and change what somebody made.
        given: pictures that people gave to steer runs.
        store: of everybody's results; for a person use `results`.
        housekeeper: tidies them up.
        engine: where jobs run.
        speeds: how long runs took here.
        tally: what was done since the start.
        audit: who did what.

    Raises:
        StoreError: the output folder cannot be written.
    """

    def __init__(self, settings: StudioSettings = StudioSettings(), tasks: Mapping[str, Task] = TASKS):
        super().__init__(settings)
        self.limits, self.tasks, self.people = settings.limits, tasks, settings.people
        self.store = Store(settings.outputs)
        self.store.reconcile()
        self.given = GivenPictures(self.store.folder / "given")
        self.housekeeper = Housekeeper(self.store, settings.housekeeping)
        self.housekeeper.start()
        self.speeds, self.tally, self.audit = Speeds(), Tally(), AuditLog(settings.audit_log)
        self._waiting = WaitingList(self.store.folder / QUEUE) if settings.keeps_queue else None
        # Before the engine: a forked worker takes these from the studio that builds it.
        self.release = PictureRelease(settings.protection, self.catalog)
        self.release_pictures = self.release.release
        saver = ResultSaver(self.catalog, self.store, self.traits, self.release.release_frames)
        self.save_picture, self.encode_clip, self.save_clip = saver.save_picture, saver.encode_clip, saver.save_clip
        self._contexts = {loader.device: DeviceContext(self, loader) for loader in self.loaders}
        self.engine = self._build_engine(settings.gpu)
        self._jobs = JobHistory()
        self._decoder = FrameDecoder(self.catalog, self.loaders, self.engine, self.release.release_frames)
        self._resume()

    # Jobs.

    def submit(self, task: str, values: Mapping[str, object], owner: str = "") -> Job:
        """Check a request and queue it.

        Args:
            task: a key of the task table.
            values: plain and untrusted.
            owner: opaque id of whoever asks; "" for programs.

        Raises:
            SettingsError: the request cannot be, and why.
            BusyError: the queue is full.
        """
        if task not in self.tasks:
            raise UnknownMethodError("task", task, self.tasks)
        self.housekeeper.require_room()
        values = draw_omitted_seeds(self.tasks[task], values)
        request = self.tasks[task].parse(values, self)
        self.speeds.require(*self._estimate_work(task, request), self.limits.max_seconds)
        return self._queue(Job(task, request, owner, typed=find_typed_prompts(values, request)), values)

    def _queue(self, job: Job, values: Mapping[str, object]) -> Job:
        if self._waiting is not None:  # before it may start, which takes it from the list
            self._waiting.add(WaitingJob(job.id, job.task, job.owner, values))
        try:
            self.engine.submit(job)
        except BaseException:
            self._leave_queue(job)
            raise
        self._jobs.add(job)
        job.when_over(self.tally.count_job)
        return job

    def cancel(self, job_id: str, person: Person) -> Job:
        """Stop a job on somebody's behalf.

        Returns:
            The job; one that was over already is left as it is.

        Raises:
            SettingsError: as `job`.
        """
        job = self.job(job_id, person)
        if not job.status.final:
            job.cancel()
            write_act(self.audit, self.people, "cancel", person, [job.owner], job=job.id)
        return job

    def _leave_queue(self, job: Job) -> None:
        if self._waiting is not None:
            self._waiting.remove(job.id)

    def _resume(self) -> None:
        """Queue what waited when the studio ended the last time, under the same ids."""
        for entry in self._waiting.take() if self._waiting is not None else []:
            try:
                request = self.tasks[entry.task].parse(entry.values, self)
                typed = find_typed_prompts(entry.values, request)
                self._queue(Job(entry.task, request, entry.owner, typed=typed, id=entry.id), entry.values)
            except (StepwiseError, KeyError) as error:  # a model is gone, a cap is lower, or the queue shorter
                _LOG.warning("A job that waited for this start cannot be run: %s", error)

    def job(self, job_id: str, person: Person = PROGRAM) -> Job:
        """Return the job of this id, running or finished a while ago.

        Args:
            job_id: of the job.
            person: whoever asks; where people are kept apart, another's job is as unknown to them as none.

        Raises:
            SettingsError: it is unknown, or so old that only its stored results remain.
        """
        return self._jobs.get(job_id, person.owns)

    def list_finished_jobs(self, job: Job) -> list[Job]:
        """List finished jobs like this one, of its owner and its task, the oldest first."""
        return self._jobs.list_finished(job.task, job.owner)

    def decode_frame(self, job_id: str, cell: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a step of a finished run as (noisy latents, estimate of x0), each (B, H, W, 3), uint8.

        Sharp, through the model's decoder, while the device is idle and the model still in memory; else the small
        pictures of the run.

        Args:
            cell, step: from 0.

        Raises:
            SettingsError: the job is unknown, or has no such step.
        """
        return self._decoder.decode(self.job(job_id), cell, step)

    def get_latest(self) -> Job | None:
        """Return the job that was submitted last, if any is remembered."""
        return self._jobs.get_latest()

    def _build_engine(self, gpu: Callable[..., object] | None) -> LocalEngine:
        """The engine of this process, or of a Space that lends its GPU through `gpu`."""
        if gpu is not None:
            return build_zero_engine(self, self.tasks, gpu, self._leave_queue)

        def suits(job: Job, device: str) -> float:
            model = getattr(getattr(job.request, "base", job.request), "model", "")
            return self._contexts[device].suits(str(model))

        return LocalEngine(self._run, self.limits, self._leave_queue, list(self._contexts), suits)

    def _run(self, job: Job) -> None:
        context = self._contexts.get(job.device, self._contexts[self.device])
        with applied_device(context.device):
            self.tasks[job.task].run(job.request, job, context)
        view = job.view()
        if not any(cell.figures.get(FROM_CACHE) for cell in view.cells):  # which says nothing of the next one's speed
            self.speeds.learn(*self._estimate_work(job.task, job.request), view.running_seconds)

    def _estimate_work(self, task: str, request: object) -> tuple[tuple[str, str], float]:
        return estimate_work(task, self.tasks[task], request, self.get_default_size)

    def stop(self, timeout: float) -> bool:
        """Cancel what runs, tell whoever waits, and take no more jobs.

        Args:
            timeout: seconds to wait for the running job's end.

        Returns:
            Whether it has ended.
        """

        def explain(job: Job) -> str:
            is_kept = self._waiting is not None and self._waiting.holds(job.id)
            later = "It runs when the studio is started again." if is_kept else "It was not kept: ask for it again."
            return f"The studio was stopped before this job began. {later}"

        return self.engine.close(timeout, explain)

    def close(self) -> None:
        """Stop the worker and let the models go."""
        self.engine.close()
        self.housekeeper.stop()
        self.audit.close()
        if self._waiting is not None:
            self._waiting.close()
        for key in self.catalog:
            for loader in self.loaders:
                loader.release(key)

    # Models.

    def load_default(self, key: str) -> None:
        """Load the model that the page opens on, in the background and once: whoever releases it keeps it released.

        Where jobs run in processes of their own a model in this one is no use.

        Args:
            key: of the model.
        """
        first = next((entry for entry in self.models() if entry.key == key), None)
        if first is None or not self.model_list.is_here(first) or self.engine.forks or self.is_loaded(first.key):
            return
        if self.model_list.get_transfer(first.key) is None:
            with contextlib.suppress(BusyError):  # somebody loads others already
                self.model_list.start(first.key, LOAD)

    def require_live(self) -> None:
        """Raise SettingsError where what a page says does not reach a job that runs."""
        if self.engine.forks:
            raise SettingsError(
                "This Space lends its GPU to one run after the other, each in a process of its own: live mode cannot "
                "run here. Run the studio on your own computer for it."
            )

    def has_waiting(self) -> bool:
        """Say whether jobs wait for the device, for which one without an end of its own steps aside."""
        return self.engine.count_jobs()[0] > 0

    def require_keeping(self) -> None:
        """Raise SettingsError where a quantized model that is made now could not be used later."""
        if self.engine.forks:
            raise SettingsError(
                "This Space loads its models when it starts: a quantized model cannot be saved here. Switch saving off."
            )

    def keep_quantized(self, model: str, choice: Choice, cancelled: Callable[[], bool]) -> str:
        """Write a quantized copy of a model into the models folder; returns the copy's key.

        Raises:
            StepwiseError: it cannot be made or written, and why.
        """
        return self._contexts[self.device].keep_quantized(model, choice, cancelled)

    @property
    def caches(self) -> TaskCaches:
        """What tasks keep between jobs on the first device."""
        return self._contexts[self.device].caches

    # Results.

    def results(self, person: Person) -> VisibleResults:
        """Return the results as a person sees them."""
        return see_results(self.store, person, self.people, self.audit)

    def find_result(self, id: str, owner: str) -> Record:
        """Find a result that this owner of a job may see; see `TaskContext`."""
        return self.results(self.people.owner(owner)).get(id)

    def read_picture(self, path: str) -> infotext.Restored | None:
        """Read the settings that an uploaded picture carries.

        Args:
            path: the server's own temporary file of the upload, never text from a request.
        """
        return infotext.read(path)

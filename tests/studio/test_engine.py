"""The queue and the worker: order, places, caps, cancels, errors that stay with their job."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import BusyError, SettingsError
from pipelines.requests.limits import Limits
from studio.jobs.job import Cell, Job, JobStatus
from studio.jobs.local_engine import LocalEngine
from studio.jobs.speed import Speeds


class Work:
    """Jobs that do what their request says, under the test's control."""

    def __init__(self):
        self.order: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.at_once = 0

    def __call__(self, job: Job) -> None:
        self.at_once += 1
        if self.at_once > 1:
            raise AssertionError("two jobs on one device")
        try:
            self.order.append(job.id)
            job.set_status(JobStatus.RUNNING)
            if isinstance(job.request, BaseException):
                raise job.request
            gate = self.gates.get(job.id)
            while gate is not None and not gate.is_set():
                if job.cancelled():
                    raise Cancelled
                time.sleep(0.002)
        finally:
            self.at_once -= 1


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def engine(work):
    engine = LocalEngine(work, Limits(max_queue=4, max_jobs_per_owner=3))
    yield engine
    engine.close()


def finish(job: Job, seconds: float = 10) -> JobStatus:
    until = time.monotonic() + seconds
    view = job.view()
    while not view.status.final and time.monotonic() < until:
        view = job.wait(view.version, 0.2)
    return view.status


def blocked(work: Work, owner: str = "", request=None) -> Job:
    job = Job("text_to_image", request, owner)
    work.gates[job.id] = threading.Event()
    return job


def started(engine: LocalEngine, job: Job) -> Job:
    engine.submit(job)
    view = job.view()
    while view.status is not JobStatus.RUNNING:
        view = job.wait(view.version, 1)
    return job


def test_first_in_first_out_with_places(engine, work):
    first = started(engine, blocked(work))
    others = [engine.submit(Job("text_to_image", None)) for _ in range(3)]
    assert [job.view().position for job in others] == [1, 2, 3]
    work.gates[first.id].set()
    assert [finish(job) for job in (first, *others)] == [JobStatus.DONE] * 4
    assert work.order == [first.id, *(job.id for job in others)]


def test_the_worker_never_waits_long_for_the_interpreter(work):
    before = sys.getswitchinterval()
    try:
        for given, wanted in ((5e-3, 5e-4), (1e-4, 1e-4)):
            sys.setswitchinterval(given)
            LocalEngine(work, Limits()).close()
            assert sys.getswitchinterval() == pytest.approx(wanted, abs=2e-6)
    finally:
        sys.setswitchinterval(before)


def test_a_full_queue_says_so(engine, work):
    started(engine, blocked(work))
    for _ in range(4):
        engine.submit(Job("text_to_image", None))
    with pytest.raises(BusyError, match="queue is full"):
        engine.submit(Job("text_to_image", None))


def test_one_person_cannot_fill_the_queue(engine, work):
    started(engine, blocked(work, "ann"))
    for _ in range(2):
        engine.submit(Job("text_to_image", None, "ann"))
    with pytest.raises(BusyError, match="3 jobs"):
        engine.submit(Job("text_to_image", None, "ann"))
    engine.submit(Job("text_to_image", None, "bob"))


def test_a_queued_job_that_is_cancelled_never_starts(engine, work):
    first = started(engine, blocked(work))
    second, third = (engine.submit(Job("text_to_image", None)) for _ in range(2))
    second.cancel()
    assert second.status is JobStatus.CANCELLED
    assert third.view().position == 1
    work.gates[first.id].set()
    assert finish(third) is JobStatus.DONE
    assert second.id not in work.order


def test_cancel_stops_only_its_own_job(engine, work):
    anns = started(engine, blocked(work, "ann"))
    bobs = engine.submit(Job("text_to_image", None, "bob"))
    anns.cancel()
    assert finish(anns) is JobStatus.CANCELLED
    assert finish(bobs) is JobStatus.DONE


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SettingsError("The steps are 0. Choose more."), "The steps are 0. Choose more."),
        (MemoryError(), "not enough memory"),
        (RuntimeError("secret detail /somewhere"), "Something broke inside the studio"),
    ],
)
def test_an_error_is_one_sentence_and_stays_with_its_job(engine, error, words):
    broken = engine.submit(Job("text_to_image", error))
    after = engine.submit(Job("text_to_image", None))
    assert finish(broken) is JobStatus.FAILED
    assert words in broken.view().message
    assert "secret" not in broken.view().message
    assert finish(after) is JobStatus.DONE


def test_waiting_time_is_estimated_from_what_ran_before(engine, work):
    gate = blocked(work)
    engine.submit(gate)
    time.sleep(0.2)
    work.gates[gate.id].set()
    assert finish(gate) is JobStatus.DONE
    started(engine, blocked(work))
    waiting = engine.submit(Job("text_to_image", None))
    last = engine.submit(Job("text_to_image", None))
    assert 0 <= waiting.view().wait_seconds <= 0.3
    assert last.view().wait_seconds >= 0.15


def test_close_cancels_what_runs_and_what_waits(work):
    engine = LocalEngine(work, Limits())
    running, waiting = started(engine, blocked(work)), Job("text_to_image", None)
    engine.submit(waiting)
    engine.close()
    assert running.status is JobStatus.CANCELLED
    assert waiting.status is JobStatus.CANCELLED
    with pytest.raises(BusyError, match="shutting down"):
        engine.submit(Job("text_to_image", None))


def test_a_final_status_is_never_left():
    job = Job("text_to_image", None)
    job.set_status(JobStatus.CANCELLED)
    job.set_status(JobStatus.DONE)
    assert job.status is JobStatus.CANCELLED


def test_a_view_is_not_changed_by_later_steps():
    from studio.jobs.job import Frame, StepRow

    job = Job("text_to_image", None)
    job.set_cells([Cell(num_steps=2)])
    before = job.view()
    job.add_step(0, StepRow(0, 1.0, 999, 2, 0.1), Frame(None, None))
    assert before.cells[0].rows == []
    assert len(job.wait(before.version, 1).cells[0].rows) == 1


def test_the_time_left_is_estimated_without_the_loading_of_models():
    from studio.jobs.job import Frame, StepRow

    now = [0.0]
    job = Job("text_to_image", None, clock=lambda: now[0])

    def pass_in(status, seconds):
        job.set_status(status)
        now[0] += seconds

    def step(index):
        job.add_step(0, StepRow(index, 1.0, 999, 2, 0.1), Frame(None, None))

    pass_in(JobStatus.LOADING, 40)
    job.set_cells([Cell(num_steps=25)])
    assert job.view().seconds_left is None
    pass_in(JobStatus.RUNNING, 1)
    step(0)
    assert job.view().seconds_left == pytest.approx(24)
    pass_in(JobStatus.LOADING, 60)  # a comparison's second model
    assert job.view().seconds_left == pytest.approx(24)
    pass_in(JobStatus.RUNNING, 1)
    step(1)
    view = job.view()
    assert view.seconds_left == pytest.approx(23)
    assert view.seconds == 102
    pass_in(JobStatus.DONE, 500)
    assert (job.view().seconds, job.view().running_seconds) == (102, 2)


def test_a_slow_reader_never_delays_the_worker():
    job = Job("text_to_image", None)
    versions = []
    reader = threading.Thread(target=lambda: (versions.append(job.wait(-1).version), time.sleep(0.3)))
    reader.start()
    began = time.monotonic()
    for _ in range(1000):
        job.touch()
    assert time.monotonic() - began < 0.3
    reader.join()


def test_a_job_that_runs_longer_than_it_may_fails_with_a_sentence_and_frees_the_device(work):
    engine = LocalEngine(work, Limits(max_seconds=0.2))
    long, after = engine.submit(blocked(work)), engine.submit(Job("text_to_image", None))
    assert finish(long) is JobStatus.FAILED and finish(after) is JobStatus.DONE
    assert "0.2 seconds, the longest" in long.view().message
    stopped = started(engine, blocked(work))
    stopped.cancel()
    assert finish(stopped) is JobStatus.CANCELLED
    engine.close()


def test_a_run_that_cannot_end_in_time_is_refused_by_the_measured_speed():
    speeds = Speeds()
    speeds.require("a", 1e9, 60.0)  # nothing is known yet
    speeds.learn("a", 10.0, 5.0)
    speeds.require("a", 100.0, 60.0)
    speeds.require("b", 1e9, 60.0)
    with pytest.raises(SettingsError, match="10 minutes here, and one run may take 2 minutes"):
        speeds.require("a", 1200.0, 120.0)
    for units, seconds in ((0.0, 9.0), (1.0, 0.1), (float("inf"), 9.0)):
        speeds.learn("a", units, seconds)
    assert speeds.estimate("a", 2.0) == 1.0
    speeds.learn("a", 10.0, 10.0)
    assert speeds.estimate("a", 1.0) == pytest.approx(0.5 + 0.3 * 0.5)


def test_the_end_is_reported_once_and_at_once_where_the_job_is_over():
    job, ends = Job("text_to_image", None), []
    job.when_over(lambda job: ends.append(job.view().status))
    job.set_cells([Cell(num_steps=1)])
    job.set_status(JobStatus.RUNNING)
    assert ends == []
    job.set_status(JobStatus.DONE)
    job.set_status(JobStatus.FAILED)  # a final status is never left
    assert ends == [JobStatus.DONE]
    job.when_over(lambda job: ends.append("late"))
    assert ends == [JobStatus.DONE, "late"]

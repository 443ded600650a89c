"""Live mode in the studio: frames that replace each other, turns with other jobs, stops, saved pictures, its routes."""

from __future__ import annotations

import io
import threading
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import SettingsError
from pipelines.requests.limits import Limits
from pipelines.workflows.live.request import LiveSettings
from studio.jobs.inbox import Inbox
from studio.jobs.job import Job, JobStatus, SteppedAside
from studio.jobs.local_engine import LocalEngine
from studio.page.live.board import LiveRenderer
from studio.page.live.tab import KEY
from studio.page.page import build_page
from studio.tasks.runs import live as live_runs
from tests.studio.waiting import ended

BASE = {
    "model": "emoji",
    "prompt": "a fox on a blue background",
    "num_inference_steps": 4,
    "seed": 3,
    "sampler": "ddim",
    "guidance": {"key": "cfg", "guidance_scale": 1.0},
}


def frame(number: int = 0, side: int = 64) -> bytes:
    """A picture's file, of another color for another number."""
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (40 * number % 256, 90, 200)).save(stream, "PNG")
    return stream.getvalue()


def until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def shown(job: Job):
    cells = job.view().cells
    return cells[0].images if cells else None


@pytest.fixture
def session(studio):
    """Start live mode; it is stopped at the end."""
    jobs = []

    def start(**values) -> Job:
        jobs.append(studio.submit(KEY, {"base": BASE, **values}))
        return jobs[-1]

    yield start
    for job in jobs:
        job.cancel()
        ended(job)


def test_only_the_newest_frame_waits_and_the_newest_of_each_setting():
    inbox = Inbox()
    numbers = [inbox.put_frame(bytes([number])) for number in range(50)]
    assert (numbers[-1], inbox.received, inbox.replaced) == (50, 50, 49)
    assert inbox.holds(50) and not inbox.holds(49)
    inbox.say({"seed": 1})
    inbox.say({"seed": 2, "strength": 0.5})
    assert inbox.take() == (bytes([49]), {"seed": 2, "strength": 0.5})
    assert inbox.take() == (None, {})
    assert not inbox.holds(50)


def test_a_backend_slower_than_its_page_keeps_one_frame_and_its_memory_flat():
    inbox, taken, stop = Inbox(), [], threading.Event()

    def work() -> None:
        while not stop.is_set():
            content, _ = inbox.take(0.05)
            if content is not None:
                taken.append(content[0])
                time.sleep(0.02)

    worker = threading.Thread(target=work)
    worker.start()
    tracemalloc.start()
    try:
        for number in range(400):
            inbox.put_frame(bytes([number % 256]) * 100_000)
            time.sleep(0.0005)
            if number == 40:
                early = tracemalloc.get_traced_memory()[0]
        late = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        stop.set()
        worker.join()
    assert late - early < 300_000  # three frames of 40 MB that came
    assert len(taken) + inbox.replaced >= inbox.received - 1
    assert inbox.replaced > 200


def test_a_page_that_says_nothing_is_silent_for_as_long_as_that():
    clock = iter([0.0, 3.0, 4.0, 9.0, 12.0])
    inbox = Inbox(lambda: next(clock))
    assert inbox.silent_seconds == 3.0
    inbox.say({})
    assert inbox.silent_seconds == 5.0


def test_frames_become_pictures_and_new_settings_count_at_once(studio, session):
    job = session(strength=0.75)
    inbox = job.request.inbox
    inbox.put_frame(frame())
    until(lambda: shown(job) is not None)
    first = shown(job)
    assert first.shape == (1, 64, 64, 3)
    cell = job.view().cells[0]
    assert not cell.rows and not cell.frames  # nothing grows with the frames
    assert cell.figures["in_flight"] <= 3
    inbox.put_frame(b"no picture")
    until(lambda: "picture" in job.view().cells[0].note)
    inbox.put_frame(frame(3))
    until(lambda: not np.array_equal(shown(job), first))
    assert job.view().cells[0].note == ""
    before = shown(job)
    changed = live_runs.read_change(job.request, {"prompt": "a cat on a red background", "strength": 1.0}, studio)
    job.request.live = changed
    inbox.say({"live": changed})
    until(lambda: not np.array_equal(shown(job), before))


def test_a_still_canvas_gives_what_image_to_image_of_its_picture_gives(studio, session):
    from pipelines.families.base import Family
    from pipelines.requests.text_to_image import resolve
    from pipelines.workflows.live.autoencoder import quick_autoencoder
    from pipelines.workflows.live.stream import LiveStream

    job = session(strength=0.6)
    for _ in range(3):
        job.request.inbox.put_frame(frame(2))
        time.sleep(0.05)
    until(lambda: shown(job) is not None)
    picture = shown(job)[0]
    job.cancel()
    ended(job)
    with studio.model("emoji", Job("x", None)) as family, quick_autoencoder(family):
        assert isinstance(family, Family)
        stream = LiveStream(family, job.request.live, resolve(job.request.base, family))
        alone = stream.draw(np.asarray(Image.open(io.BytesIO(frame(2))).convert("RGB")))
    # A row of a batch and one alone differ by the sums' order, after which bfloat16 rounds.
    assert np.abs(alone.astype(int) - picture).max() <= 3


def test_another_job_runs_while_somebody_draws_and_the_drawing_goes_on_after_it(session, studio):
    job = session()
    job.request.inbox.put_frame(frame())
    until(lambda: shown(job) is not None)
    seen = []
    job.listen(lambda: seen.append(job.status))
    other = studio.submit("text_to_image", {**BASE, "num_inference_steps": 2})
    assert ended(other).status is JobStatus.DONE
    count = job.view().cells[0].figures["frames"]
    until(lambda: job.view().cells[0].figures["frames"] > count)  # with the frame that it had, and no new one
    assert JobStatus.QUEUED in seen and job.status is JobStatus.RUNNING
    assert job.view().cells[0].figures["frames"] >= count


def test_a_stop_is_immediate_and_a_silent_page_ends_it(session, monkeypatch):
    job = session()
    until(lambda: job.status is JobStatus.RUNNING)
    begun = time.monotonic()
    job.cancel()
    assert ended(job).status is JobStatus.CANCELLED
    assert time.monotonic() - begun < 2  # a tick, on a machine that others use
    monkeypatch.setattr(live_runs, "_SILENCE", 0.2)
    view = ended(session())
    assert view.status is JobStatus.DONE and "nothing was heard" in view.cells[0].note


def test_a_picture_is_saved_with_its_settings_while_it_runs(session, studio):
    job = session(strength=0.7)
    job.request.inbox.put_frame(frame())
    until(lambda: shown(job) is not None)
    job.request.inbox.say({"save": True})
    until(lambda: bool(job.view().cells[0].results))
    record = studio.store.get(job.view().cells[0].results[0])
    assert record.metadata["figures"]["live"]["strength"] == 0.7
    assert record.metadata["request"]["prompt"] == BASE["prompt"]
    with Image.open(record.path) as saved:
        assert np.array_equal(np.asarray(saved.convert("RGB")), shown(job)[0])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"base": {**BASE, "model": "nothing"}}, "nothing"),
        ({"base": {**BASE, "prompt": ""}}, "prompt"),
        ({"base": {**BASE, "batch_size": 4}}, "one picture at a time"),
        ({"base": BASE, "strength": 7}, "strength is 7"),
        ({"base": BASE, "similarity": "close"}, "must be a number"),
        ({"base": BASE, "fps": 30}, "live mode"),
    ],
)
def test_bad_input_is_refused_with_a_sentence_before_it_queues(studio, values, sentence):
    with pytest.raises(SettingsError, match=sentence):
        studio.submit(KEY, values)


def test_a_running_session_takes_only_what_can_change(studio):
    session = live_runs.parse({"base": BASE}, studio)
    for values, sentence in (
        ({"model": "emoji-128"}, "cannot change"),
        ({"strength": 9}, "strength is 9"),
        ({"prompt": ""}, "prompt"),
        ({"seed": "x"}, "seed"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            live_runs.read_change(session, values, studio)
    changed = live_runs.read_change(session, {"similarity": 0.95, "guidance": {"key": "residual"}}, studio)
    assert changed.settings == LiveSettings(similarity=0.95)
    assert changed.base.guidance.key == "residual"
    assert session.live.settings == LiveSettings()


# --- the engine ----------------------------------------------------------------------------------


def test_a_job_that_steps_aside_lets_the_others_run_and_comes_back():
    order: list[str] = []
    gate = threading.Event()

    def run(job: Job) -> None:
        order.append(job.task)
        job.set_status(JobStatus.RUNNING)
        if job.task == "endless":
            while not job.cancelled():
                if engine.count_jobs()[0]:
                    raise SteppedAside
                time.sleep(0.002)
            raise Cancelled
        gate.wait(5)

    engine = LocalEngine(run, Limits())
    try:
        endless = engine.submit(Job("endless", None, "ann"))
        until(lambda: order == ["endless"])
        others = [engine.submit(Job("short", None, owner)) for owner in ("bob", "ann")]
        until(lambda: order[-1] == "short")
        assert endless.status is JobStatus.QUEUED
        assert endless.view().position >= 1
        gate.set()
        assert [ended(job).status for job in others] == [JobStatus.DONE] * 2
        until(lambda: order[-1] == "endless" and endless.status is JobStatus.RUNNING)
        gate.clear()
        engine.submit(Job("short", None, "bob"))
        until(lambda: endless.status is JobStatus.QUEUED)
        endless.cancel()
        assert ended(endless).status is JobStatus.CANCELLED  # while it waited
        gate.set()
    finally:
        gate.set()
        engine.close()


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(studio):
    demo = build_page(studio)
    return demo, TestClient(Starlette(routes=demo.routes), client=("127.0.0.1", 50_000))


def form_values(demo, **changes):
    run = next(block for block in demo.blocks.values() if getattr(block, "elem_id", None) == "live-run")
    event = next(event for event in demo.fns.values() if (run._id, "click") in event.targets)
    names = [(component.elem_id or "").removeprefix("live-") for component in event.inputs[:-1]]
    return [changes.get(name, component.value) for name, component in zip(names, event.inputs[:-1], strict=True)]


def test_the_page_starts_a_session_sends_frames_and_hears_why_something_cannot_be(studio, client):
    demo, web = client
    answer = web.post("/stepwise/live/run", json={"values": form_values(demo, steps=2), "owner": "me"})
    assert answer.status_code == 200, answer.text
    job = studio.job(answer.json()["session"]["job"])
    assert (job.request.base.model, [one.name for one in job.request.base.loras]) == (
        "emoji-128",
        ["emoji-128-four-steps"],
    )
    place = f"/stepwise/live/jobs/{job.id}"
    try:
        assert web.post(f"{place}/frame", content=frame()).json() == {"final": False}
        until(lambda: shown(job) is not None)
        assert web.post(f"{place}/say", json={"values": {"guidance_scale": 1.5, "seed": "9"}}).status_code == 200
        assert (job.request.base.guidance.key, job.request.base.seed) == ("residual", 9)
        for values in ({"guidance_scale": "much"}, {"seed": "x"}, {"prompt": ""}, {"steps": 3}, [1]):
            refused = web.post(f"{place}/say", json={"values": values})
            assert refused.status_code == 422 and refused.json()["detail"]
        assert web.post(f"{place}/frame", content=b"").status_code == 422
        assert web.post(f"{place}/frame", content=b"x" * (4 * 2**20 + 1)).status_code == 422
        parts = LiveRenderer("live", job)(job.view())
        assert parts["live-picture"]["src"].startswith("data:image/jpeg")
        other = studio.submit("text_to_image", {**BASE, "num_inference_steps": 1})
        assert web.post(f"/stepwise/text_to_image/jobs/{other.id}/frame", content=frame()).status_code == 422
        ended(other)
    finally:
        assert web.post(f"{place}/stop").status_code == 200
    assert ended(job).status is JobStatus.CANCELLED
    assert web.post(f"{place}/frame", content=frame()).json() == {"final": True}

"""Queued jobs survive a restart; whoever watches a job when the studio stops is told."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.core.types import Choice
from pipelines.requests.limits import Limits
from studio.backend import QUEUE, Studio, StudioSettings
from studio.jobs.job import Job, JobStatus
from studio.jobs.local_engine import LocalEngine
from studio.jobs.waiting_list import WaitingJob, WaitingList, dump_values, load_values
from tests.studio.waiting import ended

ROOT = Path(__file__).resolve().parents[2]


def test_values_come_back_as_they_were():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8))
    mask = np.arange(12, dtype=np.float32).reshape(3, 4)
    values = {"prompt": "ein Fuchs 狐", "seed": 2**63 - 1, "n": None, "x": 0.1, "list": [1, {"a": True}], "mask": mask}
    values |= {"picture": picture, "method": Choice("ddim", {"eta": 0.5})}
    again = load_values(dump_values(values))
    assert np.array_equal(again.pop("mask"), values.pop("mask"))
    assert again.pop("picture").tobytes() == values.pop("picture").tobytes()
    assert again == values
    with pytest.raises(TypeError):
        dump_values({"file": open})


def test_one_program_keeps_a_folders_list_and_a_killed_one_lets_it_go(tmp_path):
    path = tmp_path / QUEUE
    program = (
        "import sys, time; from pathlib import Path\n"
        "from studio.jobs.waiting_list import WaitingJob, WaitingList\n"
        "kept = WaitingList(Path(sys.argv[1]))\n"
        "kept.add(WaitingJob('a', 't', '', {'seed': 1})); kept.add(WaitingJob('b', 't', 'ann', {}))\n"
        "kept.remove('a'); print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        other = WaitingList(path)
        assert other.take() == [] and not other.add(WaitingJob("c", "t", "", {}))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    kept = WaitingList(path)
    assert kept.take() == [WaitingJob("b", "t", "ann", {})] and kept.take() == []
    kept.close()


def test_a_damaged_list_stops_nobody(tmp_path):
    path = tmp_path / QUEUE
    path.write_bytes(b"no database at all" * 100)
    kept = WaitingList(path)
    assert kept.take() == [] and not kept.add(WaitingJob("a", "t", "", {}))
    path.unlink()
    good = WaitingList(path)
    good.add(WaitingJob("a", "t", "", {}))
    good.close()
    with sqlite3.connect(path) as connection:
        connection.execute('UPDATE waiting SET content = \'{"$stepwise": "picture", "data": "!"}\'')
    connection.close()
    assert WaitingList(path).take() == []


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
def test_a_list_whose_folder_is_deleted_while_the_program_runs_is_made_again(tmp_path):
    path = tmp_path / "outputs" / QUEUE
    path.parent.mkdir()
    kept = WaitingList(path)
    jobs = [WaitingJob(name, "t", "ann", {"seed": 1}) for name in "abcd"]
    kept.add(jobs[0]), kept.add(jobs[1])
    shutil.rmtree(path.parent)
    assert kept.add(jobs[2]) and path.is_file()
    kept.remove("a")
    shutil.rmtree(path.parent)
    assert kept.holds("b") and kept.holds("c") and not kept.holds("a")
    path.unlink()
    path.write_bytes(b"")  # another file of its name
    assert kept.add(jobs[3])
    kept.close()
    assert WaitingList(path).take() == jobs[1:]


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
@pytest.mark.parametrize("can_be_made_again", [True, False])
def test_who_waits_is_told_that_a_job_runs_later_only_where_it_will(tmp_path, can_be_made_again):
    studio = build(tmp_path)
    hold = threading.Event()
    studio._run = lambda job: hold.wait(60)
    studio.engine._run = studio._run
    values = {"prompt": "a fox", "num_inference_steps": 1, "seed": 3}
    running = studio.submit("text_to_image", values)
    while running.status is JobStatus.QUEUED:
        time.sleep(0.01)
    shutil.rmtree(tmp_path / "outputs")
    if not can_be_made_again:
        (tmp_path / "outputs").write_text("a file")
    waits = studio.submit("text_to_image", values)
    threading.Timer(0.5, hold.set).start()
    studio.stop(10.0)
    assert waits.status is JobStatus.CANCELLED
    later = waits.view().message.partition("began. ")[2]
    assert later == (
        "It runs when the studio is started again." if can_be_made_again else "It was not kept: ask for it again."
    )
    studio.close()
    if can_be_made_again:
        again = build(tmp_path)
        assert ended(again.job(waits.id)).status is JobStatus.DONE
        again.close()


def build(home, **more):
    settings = {"outputs": home / "outputs", "models": home / "models", "device": "cpu", "keeps_queue": True}
    return Studio(StudioSettings(**{**settings, **more}))


def test_jobs_that_wait_are_run_by_the_next_start_with_the_seed_that_was_drawn(tmp_path):
    first = build(tmp_path)
    running = first.submit("text_to_image", {"prompt": "a fox", "num_inference_steps": 200, "batch_size": 4})
    while running.view().status is not JobStatus.RUNNING:
        running.wait(running.view().version, 1)
    values = {"prompt": "a {red|blue} fox", "num_inference_steps": 1, "seed": None}
    waits = first.submit("text_to_image", values, "login ann")
    stopped = first.submit("text_to_image", values)
    stopped.cancel()
    told = []
    watcher = threading.Thread(target=lambda: told.append(ended(waits)))
    watcher.start()
    assert first.stop(30.0)
    watcher.join(10)
    assert told[0].status is JobStatus.CANCELLED and "runs when the studio is started again" in told[0].message
    assert running.view().status is JobStatus.CANCELLED
    first.close()
    second = build(tmp_path)
    again = second.job(waits.id)
    assert again.owner == "login ann" and again.request == waits.request
    assert ended(again).status is JobStatus.DONE
    for gone in (running, stopped):
        with pytest.raises(Exception, match="no longer in memory"):
            second.job(gone.id)
    second.close()
    third = build(tmp_path)
    assert third.get_latest() is None
    third.close()


def test_a_job_that_can_no_longer_be_run_is_left_out(tmp_path):
    first = build(tmp_path)
    first.engine.close()
    first._waiting.add(WaitingJob("gone", "text_to_image", "", {"prompt": "a fox", "model": "nowhere"}))
    first._waiting.add(WaitingJob("task", "no_such_task", "", {}))
    first.close()
    second = build(tmp_path)
    assert second.get_latest() is None
    second.close()


def test_whoever_watches_a_job_that_does_not_end_is_told_all_the_same():
    hold = threading.Event()
    engine = LocalEngine(lambda job: hold.wait(30), Limits())
    job = engine.submit(Job("text_to_image", None))
    while job.status is JobStatus.QUEUED:
        time.sleep(0.01)
    assert not engine.close(0.1)
    assert job.view().status is JobStatus.CANCELLED
    hold.set()

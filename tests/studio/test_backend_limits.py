"""What the studio refuses, forgets and bounds: full disks, old pictures, the queue, memory and time."""

from __future__ import annotations

import base64
import dataclasses
import errno
import io
import os
import re
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from pipelines.core.errors import BusyError, SettingsError
from pipelines.core.interruption import large_modules
from pipelines.models.catalog import SHIPPED
from pipelines.requests.limits import Limits
from pipelines.workflows.edit.request import Picture
from studio.backend import Studio, StudioSettings
from studio.jobs.history import JobHistory
from studio.jobs.job import Cell, Frame, Job, JobStatus
from studio.ui.viewer import ViewerRenderer
from tests.studio.waiting import ended

REQUEST = {"prompt": "a fox on a blue background", "num_inference_steps": 6, "seed": 5}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    studio = Studio(
        StudioSettings(
            outputs=folder / "outputs",
            models=folder / "models",
            device="cpu",
            limits=Limits(max_queue=3, max_jobs_per_owner=2),
        )
    )
    yield studio
    studio.close()


def full_after(saved):
    """`os.replace` on a disk that has room for so many more files."""
    room = iter(range(saved))

    def replace(source, target):
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.rename(source, target)

    return replace


def pixels_of(url):
    assert url.startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        return np.asarray(picture)


def test_a_full_disk_is_an_error_with_a_sentence_and_loses_nothing(studio, monkeypatch):
    before = [record.id for record in studio.store.list(limit=1000)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_after(0))
        job = studio.submit("text_to_image", REQUEST)
        view = ended(job)
    assert view.status is JobStatus.FAILED
    assert "disk" in view.message.lower() or "space" in view.message.lower()
    assert [record.id for record in studio.store.list(limit=1000)] == before
    parts = ViewerRenderer(studio, "t", job)(view)
    again = ended(studio.submit("text_to_image", REQUEST))
    assert again.status is JobStatus.DONE
    np.testing.assert_array_equal(pixels_of(parts["t-hero"]["src"]), again.cells[0].images[0])
    assert parts["t-download"]["src"] == parts["t-hero"]["src"] and parts["t-tools"] == {"hidden": None}


def test_a_disk_that_fills_up_keeps_what_it_had_room_for_and_the_rest_is_shown(studio, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_after(1))
        job = studio.submit("text_to_image", {**REQUEST, "batch_size": 3})
        view = ended(job)
    assert view.status is JobStatus.FAILED
    (kept,) = view.cells[0].results
    np.testing.assert_array_equal(np.asarray(Image.open(studio.store.get(kept).path)), view.cells[0].images[0])
    strip = ViewerRenderer(studio, "t", job)(view)["t-batch"]["html"]
    shown = [pixels_of(url) for url in re.findall(r'<img src="([^"]+)"', strip)]
    np.testing.assert_array_equal(shown, view.cells[0].images[1:])


def test_old_jobs_let_their_pictures_go_and_can_still_be_read(studio, monkeypatch):
    jobs = [studio.submit("text_to_image", REQUEST) for _ in range(3)]
    views = [ended(job) for job in jobs]
    size = jobs[0].picture_bytes
    assert size > 6 * 2 * views[0].cells[0].frames[0].noisy.nbytes + views[0].cells[0].images.nbytes
    history = JobHistory(capacity=10, most_bytes=2 * size)
    for job in jobs:
        history.add(job)
    assert [job.picture_bytes for job in jobs] == [0, size, size]
    old = history.get(jobs[0].id).view()
    assert old.cells[0].rows == views[0].cells[0].rows and old.cells[0].results == views[0].cells[0].results
    parts = ViewerRenderer(studio, "t", jobs[0])(old)
    assert parts["t-hero"]["file"] == parts["t-download"]["file"] != ""
    assert ViewerRenderer(studio, "t", jobs[0]).at_step(1, True) == {}


def test_pictures_are_counted_when_a_job_ends_and_the_last_one_keeps_its_own():
    history, jobs = JobHistory(capacity=3, most_bytes=100), [Job("text_to_image", None) for _ in range(3)]
    for job in jobs:
        history.add(job)
    for job in jobs:
        job.set_cells([Cell(images=np.zeros((1, 8, 8, 3), np.uint8), results=("x",))])
    for place, job in enumerate(jobs):
        job.set_status(JobStatus.DONE)
        assert [one.picture_bytes for one in jobs[: place + 1]] == [0] * place + [192]
    history.add(Job("text_to_image", None))
    with pytest.raises(SettingsError, match="no longer in memory"):
        history.get(jobs[0].id)
    assert history.get(jobs[1].id) is jobs[1] and history.get_latest() not in jobs


def test_pictures_that_could_not_be_stored_are_never_let_go():
    job = Job("text_to_image", None)
    job.set_cells([Cell(images=np.zeros((1, 8, 8, 3), np.uint8), frames=[Frame(*np.zeros((2, 1, 4, 4, 3), np.uint8))])])
    job.set_status(JobStatus.FAILED, "The disk is full.")
    assert job.let_pictures_go() == 2 * 48 and job.picture_bytes == 192


def test_pictures_that_requests_were_given_count_too():
    """64 jobs that each hold a photograph of four megapixels took 800 MB beside what was counted."""

    @dataclasses.dataclass(frozen=True)
    class Given:
        picture: Picture
        prompt: str = "a fox"

    history, jobs = JobHistory(capacity=9, most_bytes=500), []
    for _ in range(4):
        jobs.append(Job("edit", Given(Picture(np.zeros((8, 8, 3), np.uint8)))))
        history.add(jobs[-1])
        jobs[-1].set_cells([Cell(images=np.zeros((1, 4, 4, 3), np.uint8), results=("x",))])
        jobs[-1].set_status(JobStatus.FAILED if len(jobs) == 1 else JobStatus.DONE)
    assert jobs[0].source_bytes == 192
    with pytest.raises(SettingsError, match="no longer in memory"):
        history.get(jobs[1].id)
    assert history.get(jobs[0].id).picture_bytes == 48 and history.get(jobs[3].id).picture_bytes == 48


def test_the_queue_is_capped(studio):
    blocker = studio.submit("text_to_image", {**REQUEST, "num_inference_steps": 200})
    jobs = []
    with pytest.raises(BusyError, match="queue is full"):
        for _ in range(6):
            jobs.append(studio.submit("text_to_image", REQUEST))
    for job in (*jobs, blocker):
        job.cancel()
    assert {ended(job).status for job in (*jobs, blocker)} == {JobStatus.CANCELLED}


def test_unknown_jobs_and_tasks_are_refused(studio):
    with pytest.raises(SettingsError, match="no longer in memory"):
        studio.job("../../etc/passwd")
    with pytest.raises(SettingsError, match="Unknown task"):
        studio.submit("format_disk", {})


def test_a_broken_checkpoint_in_the_models_folder_is_listed_with_its_problem(studio):
    folder = studio.catalog.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evil.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 200)
    studio.catalog.rescan()
    try:
        (entry,) = [one for one in studio.models() if one.key.startswith("evil")]
        view = ended(studio.submit("text_to_image", {**REQUEST, "model": entry.key}))
        assert view.status is JobStatus.FAILED
        assert "evil.safetensors" in view.message
    finally:
        (folder / "evil.safetensors").unlink()
        studio.catalog.rescan()


def test_wildcards_are_drawn_by_the_seed(studio):
    folder = studio.catalog.folder / "wildcards"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "animal.txt").write_text("fox\npanda\n")
    try:
        draws = {studio.expand("a {red|green} __animal__", seed) for seed in range(40)}
    finally:
        shutil.rmtree(folder)
    assert draws == {"a red fox", "a green fox", "a red panda", "a green panda"}


def test_switching_models_stays_within_the_budget(tmp_path):
    models = tmp_path / "models"
    for factor, name in ((0.9, "one"), (1.1, "two")):
        shutil.copytree(SHIPPED, models / name)
        weights = models / name / "unet" / "diffusion_pytorch_model.safetensors"
        save_file({key: tensor * factor for key, tensor in load_file(weights).items()}, weights)
    budget = 72 * 2**20  # one model and a half, the headroom taken off
    studio = Studio(StudioSettings(outputs=tmp_path / "outputs", models=models, device="cpu", memory_budget=budget))
    try:
        images = {}
        for key in ("emoji", "one", "two") * 3:
            view = ended(studio.submit("text_to_image", {**REQUEST, "model": key, "num_inference_steps": 1}))
            assert view.status is JobStatus.DONE, view.message
            images.setdefault(key, []).append(view.cells[0].images.tobytes())
        assert [len(set(same)) for same in images.values()] == [1, 1, 1]
        assert len({same[0] for same in images.values()}) == 3
        assert studio.cache.peak_bytes <= budget
        assert not studio.loader.loaded("emoji")
    finally:
        studio.close()


def hooks(studio):
    """How many hooks the network and the VAE of the shipped model have; transformers adds some to its encoder."""
    with studio.loader.model("emoji") as family:
        parts = large_modules([family.network, family.vae])
        modules = [module for part in parts for module in part.modules()]
        return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in modules)


def test_the_largest_request_stops_within_seconds_and_its_model_is_as_before(studio):
    before = hooks(studio)
    job = studio.submit(
        "text_to_image",
        {"prompt": "a fox", "width": 2048, "height": 2048, "batch_size": 4, "num_inference_steps": 200},
    )
    while job.view().status is not JobStatus.RUNNING:
        job.wait(job.view().version, 1)
    time.sleep(3)  # it is in its first evaluation, which would take minutes
    began = time.monotonic()
    job.cancel()
    assert ended(job).status is JobStatus.CANCELLED
    assert time.monotonic() - began < 10  # a quarter of a second where nothing else runs
    assert hooks(studio) == before


def test_a_request_that_cannot_end_in_time_is_refused(tmp_path):
    limits = Limits(max_seconds=30.0)
    small = Studio(StudioSettings(outputs=tmp_path / "o", models=tmp_path / "m", device="cpu", limits=limits))
    try:
        values = {"prompt": "a fox", "num_inference_steps": 20, "width": 64, "height": 64}
        work = small._estimate_work("text_to_image", small.tasks["text_to_image"].parse(values, small))
        small.speeds.learn(*work, 2.0)
        small.speeds.require(*work, 30.0)
        with pytest.raises(SettingsError, match="one run may take 30 seconds"):
            small.submit("text_to_image", {**values, "num_inference_steps": 200, "batch_size": 4})
    finally:
        small.close()

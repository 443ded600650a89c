"""The studio object on the shipped model: requests in, streamed steps and stored results out."""

from __future__ import annotations

import base64
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

from pipelines.core.errors import BusyError, SettingsError, StepwiseError
from pipelines.models.catalog import SHIPPED
from pipelines.requests.limits import Limits
from studio import backend, infotext
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


def test_generate_streams_every_step_and_stores_the_picture(studio):
    job = studio.submit("text_to_image", {**REQUEST, "batch_size": 2})
    view = ended(job)
    assert view.status is JobStatus.DONE, view.message
    (cell,) = view.cells
    assert [row.index for row in cell.rows] == list(range(6))
    sigmas = [row.sigma for row in cell.rows]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[-1] == 0
    assert [row.evaluations for row in cell.rows] == [2 * (i + 1) for i in range(6)]
    assert len({frame.denoised.tobytes() for frame in cell.frames}) == 6
    assert cell.images.shape == (2, 64, 64, 3)
    for i, result in enumerate(cell.results):
        record = studio.store.get(result)
        np.testing.assert_array_equal(np.asarray(Image.open(record.path).convert("RGB")), cell.images[i])
        restored = infotext.read(record.path)
        assert restored.values["seed"] == 5 + i
        assert restored.values["prompt"] == REQUEST["prompt"]


def test_a_finished_steps_pictures_are_sharp_while_the_device_is_idle(studio):
    job = studio.submit("text_to_image", REQUEST)
    cell = ended(job).cells[0]
    noisy, denoised = studio.decode_frame(job.id, 0, 5)
    np.testing.assert_allclose(denoised.astype(int), cell.images, atol=2)  # float16 latents
    np.testing.assert_array_equal(noisy, denoised)  # no noise is left after the last step
    assert studio.decode_frame(job.id, 0, 1)[0].shape == (1, 64, 64, 3)
    blocker = studio.submit("text_to_image", {**REQUEST, "num_inference_steps": 200})
    while blocker.status is not JobStatus.RUNNING:
        blocker.wait(blocker.view().version, 1)
    assert studio.decode_frame(job.id, 0, 2)[0].shape == cell.frames[2].noisy.shape
    assert studio.decode_frame(job.id, 0, 1)[0].shape == (1, 64, 64, 3)  # decoded before
    blocker.cancel()
    ended(blocker)
    with pytest.raises(SettingsError, match="no step 7"):
        studio.decode_frame(job.id, 0, 6)


def test_a_step_that_was_decoded_is_not_decoded_again(studio, monkeypatch):
    job = studio.submit("text_to_image", REQUEST)
    ended(job)
    decoded, sharp = [], backend.sharp
    monkeypatch.setattr(backend, "sharp", lambda frame, family: decoded.append(frame) or sharp(frame, family))
    for _ in range(500):  # the worker lets the device go a moment after the job is done
        first = studio.decode_frame(job.id, 0, 3)
        if decoded:
            break
        time.sleep(0.01)
    assert all(studio.decode_frame(job.id, 0, 3) is first for _ in range(5))
    assert len(decoded) == 1
    for step in (0, 1, 2, 3):
        studio.decode_frame(job.id, 0, step)
    assert len(decoded) == 5  # few are kept


def test_a_batch_is_the_same_pictures_as_one_by_one(studio):
    both = ended(studio.submit("text_to_image", {**REQUEST, "batch_size": 2, "sampler": "euler_a"})).cells[0].images
    second = ended(studio.submit("text_to_image", {**REQUEST, "seed": 6, "sampler": "euler_a"})).cells[0].images
    assert np.abs(both[1].astype(int) - second[0]).max() <= 1


def test_a_restored_picture_makes_itself_again(studio):
    first = ended(
        studio.submit("text_to_image", {**REQUEST, "sampler": {"key": "ddim", "eta": 0.5}, "schedule": "karras"})
    )
    restored = infotext.read(studio.store.get(first.cells[0].results[0]).path)
    again = ended(studio.submit("text_to_image", restored.values))
    np.testing.assert_array_equal(again.cells[0].images, first.cells[0].images)


def test_cancel_stops_between_evaluations_and_stores_nothing(studio):
    before = len(studio.store.list(limit=1000))
    job = studio.submit("text_to_image", {**REQUEST, "num_inference_steps": 200})
    view = job.view()
    while not (view.cells and view.cells[0].rows):
        view = job.wait(view.version, 30)
    job.cancel()
    view = ended(job)
    assert view.status is JobStatus.CANCELLED
    assert 0 < len(view.cells[0].rows) < 200
    assert view.cells[0].results == ()
    assert len(studio.store.list(limit=1000)) == before
    assert all(row.in_use == 0 for row in studio.loader.memory())


def test_one_persons_cancel_leaves_anothers_job_alone(studio):
    alone = ended(studio.submit("text_to_image", REQUEST)).cells[0].images
    first = studio.submit("text_to_image", {**REQUEST, "num_inference_steps": 150}, owner="ann")
    second = studio.submit("text_to_image", REQUEST, owner="bob")
    view = first.view()
    while not (view.cells and view.cells[0].rows):
        view = first.wait(view.version, 30)
    first.cancel()
    assert ended(first).status is JobStatus.CANCELLED
    view = ended(second)
    assert view.status is JobStatus.DONE
    np.testing.assert_array_equal(view.cells[0].images, alone)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"model": "no-such"}, "Unknown model 'no-such'"),
        ({"width": 63, "height": 64}, "multiples of"),
        ({"sampler": "flow_euler"}, "does not fit"),
        ({"loras": ["nothing"]}, "no LoRA 'nothing'"),
        ({"prompt": "__missing__"}, "missing"),
    ],
)
def test_bad_requests_fail_with_a_sentence_and_the_studio_goes_on(studio, changes, words):
    try:
        view = ended(studio.submit("text_to_image", {**REQUEST, **changes}))
        assert view.status is JobStatus.FAILED
        message = view.message
    except StepwiseError as error:
        message = str(error)
    assert words in message
    assert "Traceback" not in message
    assert ended(studio.submit("text_to_image", REQUEST)).status is JobStatus.DONE


def test_a_published_model_says_offline_what_is_missing(studio):
    key = next(entry.key for entry in studio.models() if entry.family == "sdxl" and not entry.local)
    view = ended(studio.submit("text_to_image", {**REQUEST, "model": key, "width": 1024, "height": 1024}))
    assert view.status is JobStatus.FAILED
    assert "models" in view.message


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
    assert parts["t-download"] == parts["t-hero"] and parts["t-tools"] == {"hidden": None}


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
    shelf = JobHistory(most=10, most_bytes=2 * size)
    for job in jobs:
        shelf.add(job)
    assert [job.picture_bytes for job in jobs] == [0, size, size]
    old = shelf.get(jobs[0].id).view()
    assert old.cells[0].rows == views[0].cells[0].rows and old.cells[0].results == views[0].cells[0].results
    parts = ViewerRenderer(studio, "t", jobs[0])(old)
    assert parts["t-hero"] == parts["t-download"] and parts["t-hero"] != {}
    assert ViewerRenderer(studio, "t", jobs[0]).at_step(1, True) == {}


def test_pictures_are_counted_when_a_job_ends_and_the_last_one_keeps_its_own():
    shelf, jobs = JobHistory(most=3, most_bytes=100), [Job("text_to_image", None) for _ in range(3)]
    for job in jobs:
        shelf.add(job)
    for job in jobs:
        job.set_cells([Cell(images=np.zeros((1, 8, 8, 3), np.uint8), results=("x",))])
    for place, job in enumerate(jobs):
        job.set_status(JobStatus.DONE)
        assert [one.picture_bytes for one in jobs[: place + 1]] == [0] * place + [192]
    shelf.add(Job("text_to_image", None))
    with pytest.raises(SettingsError, match="no longer known"):
        shelf.get(jobs[0].id)
    assert shelf.get(jobs[1].id) is jobs[1] and shelf.latest() not in jobs


def test_pictures_that_could_not_be_stored_are_never_let_go():
    job = Job("text_to_image", None)
    job.set_cells([Cell(images=np.zeros((1, 8, 8, 3), np.uint8), frames=[Frame(*np.zeros((2, 1, 4, 4, 3), np.uint8))])])
    job.set_status(JobStatus.FAILED, "The disk is full.")
    assert job.let_pictures_go() == 2 * 48 and job.picture_bytes == 192


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
    with pytest.raises(SettingsError, match="no longer known"):
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

"""The studio object on the shipped model: requests in, streamed steps and stored results out."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import SettingsError, StepwiseError
from pipelines.requests.limits import Limits
from studio import infotext
from studio.backend import Studio, StudioSettings, decoding
from studio.jobs.job import JobStatus
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
    decoded, sharp = [], decoding.decode_sharp
    monkeypatch.setattr(decoding, "decode_sharp", lambda frame, family: decoded.append(frame) or sharp(frame, family))
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

"""Upscaling: by resampling, by a network, with a second pass, and what is refused before it queues."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipelines.core.errors import PictureError, SettingsError, StepwiseError
from pipelines.upscaling.compact import CompactUpscaler
from pipelines.upscaling.enlarge import enlarge, resample
from studio import infotext
from studio.backend import Studio
from studio.jobs.job import JobStatus
from tests.studio.task_examples import FOX as FOX_RUN
from tests.studio.task_examples import Example, read_source
from tests.studio.waiting import ended

EXAMPLE = Example(
    {"base": FOX_RUN, "picture": read_source(), "factor": 1, "strength": 0.7},
    {"base": {**FOX_RUN, "num_inference_steps": 100}, "strength": 1},
)
"""For the tests of all tasks."""


FOX = "a fox on a blue background"


def picture(width: int = 48, height: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def file_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def upscaled(studio: Studio, **values) -> tuple[np.ndarray, Image.Image, object]:
    """The picture of the finished job, what was stored, and the job."""
    job = studio.submit("upscale", {"picture": file_of(picture()), **values})
    view = ended(job)
    assert view.status is JobStatus.DONE, view.message
    (cell,) = view.cells
    with Image.open(studio.store.get(cell.results[0]).path) as stored:
        stored.load()
    return cell.images[0], stored, job


def test_lanczos_is_lanczos_and_is_stored(studio):
    pixels, stored, _ = upscaled(studio, upscaler="lanczos", factor=1.5)
    assert np.array_equal(pixels, resample(picture(), (72, 48)))
    assert np.array_equal(np.asarray(stored), pixels)
    assert infotext.read(stored) is None  # nothing is known of how the picture itself was made


def test_an_empty_prompt_says_nothing_of_how_the_picture_was_made(studio):
    """The endpoint and the command always give one, though it is empty."""
    _, stored, _ = upscaled(studio, upscaler="lanczos", base={"prompt": ""})
    assert infotext.read(stored) is None


@pytest.mark.parametrize("base", [{}, {"prompt": FOX}])
def test_the_result_belongs_to_whoever_asked(studio, base):
    values = {"picture": file_of(picture()), "upscaler": "lanczos", "base": base}
    job = studio.submit("upscale", values, "somebody")
    view = ended(job)
    record = studio.store.get(view.cells[0].results[0])
    assert record.owner == studio.store.owners.tag("somebody") != ""


def test_a_network_of_the_models_folder_enlarges(studio):
    torch.manual_seed(0)
    network = CompactUpscaler(8, 2, 4)
    folder = studio.catalog.folder / "upscale_models"
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "mine.safetensors")
    pixels, _, _ = upscaled(studio, upscaler="mine", factor=3)
    assert np.array_equal(pixels, enlarge(picture(), network.eval(), (144, 96)))


def test_a_second_pass_streams_its_steps_and_keeps_the_settings(studio):
    base = {"prompt": FOX, "num_inference_steps": 4, "seed": 7, "sampler": "ddim"}
    pixels, stored, job = upscaled(studio, upscaler="lanczos", factor=2, strength=0.5, base=base)
    (cell,) = job.view().cells
    assert len(cell.rows) == 2 and cell.figures["evaluations"] == 4
    assert pixels.shape == (64, 96, 3)
    assert not np.array_equal(pixels, resample(picture(), (96, 64)))
    restored = infotext.read(stored)
    assert restored.values["prompt"] == FOX and restored.values["seed"] == 7
    assert (restored.values["width"], restored.values["height"]) == (48, 32)  # what the settings drew


def test_no_strength_leaves_the_enlarged_picture(studio):
    pixels, _, job = upscaled(studio, upscaler="lanczos", strength=0, base={"prompt": FOX})
    assert np.array_equal(pixels, resample(picture(), (96, 64)))
    assert job.view().cells[0].figures["evaluations"] == 0


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"picture": None}, PictureError, "no picture"),
        ({"picture": b"no picture"}, PictureError, "picture"),
        ({"factor": 0.5}, SettingsError, "factor"),
        ({"factor": 9}, SettingsError, "factor"),
        ({"factor": float("nan")}, SettingsError, "factor"),
        ({"factor": True}, SettingsError, "factor"),
        ({"strength": 1.5, "base": {"prompt": FOX}}, SettingsError, "strength"),
        ({"strength": 0.5}, StepwiseError, "prompt"),
        ({"upscaler": "emoji-3x"}, SettingsError, "emoji-2x"),
        ({"upscaler": 3}, SettingsError, "upscaler"),
        ({"base": {"batch_size": 2}}, SettingsError, "One picture"),
        ({"base": [1]}, SettingsError, "object"),
        ({"sharpness": 1}, SettingsError, "sharpness"),
    ],
)
def test_what_is_wrong_is_said_before_it_queues(studio, values, error, words):
    with pytest.raises(error, match=words):
        studio.submit("upscale", {"picture": file_of(picture()), **values})


def test_a_picture_that_would_be_too_large_is_refused_with_its_size(studio):
    with pytest.raises(SettingsError, match="2400"):
        studio.submit("upscale", {"picture": file_of(picture(600, 10)), "factor": 4, "upscaler": "lanczos"})


def test_a_generated_picture_with_a_second_pass_is_made_again_by_its_settings(studio):
    values = {
        "prompt": FOX,
        "num_inference_steps": 3,
        "seed": 5,
        "second_pass": {"key": "pixel", "upscaler": "lanczos", "strength": 0.5},
    }
    job = studio.submit("text_to_image", values)
    (cell,) = ended(job).cells
    assert [len(cell.rows), cell.num_steps, cell.images.shape[1:3]] == [4, 4, (128, 128)]
    with Image.open(studio.store.get(cell.results[0]).path) as stored:
        restored = infotext.read(stored)
    assert (restored.values["width"], restored.values["height"]) == (64, 64)  # of the first pass
    (again,) = ended(studio.submit("text_to_image", restored.values)).cells
    assert np.array_equal(again.images, cell.images)


@pytest.mark.parametrize("task", ["compare", "convergence", "edit"])
def test_other_tasks_refuse_a_second_pass(studio, task):
    base = {"prompt": FOX, "second_pass": "latent"}
    with pytest.raises(SettingsError, match="no second pass"):
        studio.submit(task, {"base": base, "picture": file_of(picture())} if task == "edit" else {"base": base})


def test_an_upscaler_that_is_not_there_is_named_before_it_queues(studio):
    with pytest.raises(SettingsError, match="emoji-2x"):
        studio.submit("text_to_image", {"prompt": FOX, "second_pass": {"key": "pixel", "upscaler": "gone"}})


def test_the_work_of_an_enlargement_grows_with_the_enlarged_picture(studio):
    def estimate(**values):
        request = studio.tasks["upscale"].parse({"picture": file_of(picture()), "base": {}, **values}, studio)
        return studio._estimate_work("upscale", request)

    (kind, small), (other_kind, large) = estimate(factor=2.0), estimate(factor=8.0)
    assert kind == other_kind and large == pytest.approx(16 * small)
    base = {"prompt": FOX, "num_inference_steps": 20}
    second_kind, second = estimate(factor=2.0, strength=0.5, base=base)
    assert second_kind != kind and second == pytest.approx(11 * small)
    assert estimate(factor=2.0, upscaler="lanczos")[0] != kind
    studio.speeds.learn(kind, small, 60.0)
    with pytest.raises(SettingsError, match="16 minutes"):
        studio.speeds.require(kind, large, 600.0)

"""Made like another program, behind the studio's doors: stored with each picture, shared, and refused where it is not
followed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipelines.core.errors import SettingsError
from studio import infotext
from studio.jobs.job import JobStatus
from studio.ui.restore import read_settings
from tests.studio.waiting import ended

BASE = {"prompt": "a fox", "seed": 5, "num_inference_steps": 4, "sampler": "euler_a", "schedule": "karras"}


def ran(studio, values):
    view = ended(studio.submit("text_to_image", values))
    assert view.status is JobStatus.DONE, view.message
    return view.cells[0]


def test_each_picture_of_a_batch_stores_its_place_and_is_made_again_from_it(studio):
    together = ran(studio, {**BASE, "made_like": "comfyui", "batch_size": 3})
    stored = infotext.read(studio.store.get(together.results[2]).path).values
    assert stored["seed"] == 5
    assert stored["made_like"] == {"key": "comfyui", "batch_index": 2, "batch_total": 3}
    again = ran(studio, {**BASE, **stored})
    assert np.abs(again.images[0].astype(int) - together.images[2]).max() <= 1
    plain = ran(studio, {**BASE, "seed": 7})
    assert np.abs(plain.images[0].astype(int) - together.images[2]).max() > 20


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ("animate", {"base": {**BASE, "made_like": "a1111_gpu"}, "frames": 2, "keys": [{"prompt": "an owl"}]}),
        ("learn", {"base": {**BASE, "made_like": "comfyui"}, "learner": {"key": "ld3", "rounds": 2, "batch": 2}}),
    ],
)
def test_what_follows_this_studios_rules_only_refuses_others(studio, task, values):
    try:
        view = ended(studio.submit(task, values))
    except SettingsError as error:
        assert "follows Stepwise's own rules only" in str(error) or "made like" in str(error)
    else:
        assert view.status is JobStatus.FAILED and "follows Stepwise's own rules only" in view.message


@pytest.mark.parametrize("sampler", ["lms", "pndm", "ipndm", {"key": "lms", "order": 2}])
def test_samplers_that_are_far_off_on_uniform_levels_take_karras_where_none_are_named(studio, sampler):
    def parse(**values):
        return studio.tasks["text_to_image"].parse({"prompt": "a fox", "sampler": sampler, **values}, studio)

    assert parse().schedule.key == "karras"
    assert parse(schedule="uniform").schedule.key == "uniform"
    assert parse(made_like="comfyui").schedule.key == "uniform"
    assert (
        studio.tasks["text_to_image"].parse({"prompt": "a fox", "sampler": "euler"}, studio).schedule.key == "uniform"
    )


def test_a_picture_of_unknown_rules_is_made_by_our_own_whatever_the_last_one_had(studio, tmp_path):
    text = "a fox\nSteps: 20, Sampler: Euler, Schedule type: Karras, CFG scale: 7, Seed: 5, Size: 64x64"
    found = {}
    for name, version in (("known", ", Version: v1.10.1"), ("unknown", "")):
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", text + version)
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png", pnginfo=info)
        found[name] = read_settings(studio, str(tmp_path / f"{name}.png"), "emoji")
    assert found["known"].values["made_like"]["key"].startswith("a1111")
    assert found["unknown"].values["made_like"] == {"key": "here"}
    assert any("is not known" in note for note in found["unknown"].notes)
    assert not any("Made like" in note for note in found["known"].notes)

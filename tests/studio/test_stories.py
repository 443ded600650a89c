"""A story through the studio: its scenes are a batch, its pictures remember it, and other tasks refuse it."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.core.errors import StepwiseError
from studio.backend import Studio, StudioSettings
from studio.ui.restore import read_settings
from tests.studio.waiting import ended

REQUEST = {"model": "emoji-128", "prompt": "a fox", "num_inference_steps": 2, "seed": 11}
SCENES = "on a blue background\non a {green} background"


def story(**settings):
    return {"story": {"key": "consistent", "scenes": SCENES, **settings}}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    home = tmp_path_factory.mktemp("stories")
    studio = Studio(StudioSettings(home / "outputs", home / "models", device="cpu"))
    yield studio
    studio.close()


def run(studio, **changes):
    view = ended(studio.submit("text_to_image", {**REQUEST, **changes}))
    assert view.status.value == "done", view.message
    return view.cells[0]


def test_each_scene_is_a_picture_and_each_picture_tells_the_story_again(studio):
    told = run(studio, **story(), batch_size=5)
    assert len(told.images) == len(told.results) == 2
    record = studio.store.get(told.results[1])
    assert record.metadata["request"]["prompt"] == "a fox on a green background"
    restored = read_settings(studio, str(record.path), "emoji-128")
    assert restored.values["story"]["subject"] == "a fox" and restored.values["seed"] == 11
    assert not restored.notes
    np.testing.assert_array_equal(run(studio, **restored.values).images, told.images)
    # Another scene is another run, though prompt and seed are the same.
    other = run(studio, **story(scenes=SCENES.replace("blue", "red")))
    assert not np.array_equal(other.images[0], told.images[0])


def test_without_sharing_the_pictures_are_those_of_their_prompts(studio):
    alone = run(studio, **story(sharing=0.0)).images
    for index, color in enumerate(("blue", "green")):
        single = run(studio, prompt=f"a fox on a {color} background", seed=11 + index).images[0]
        assert np.abs(single.astype(int) - alone[index]).max() <= 1
    assert np.abs(run(studio, **story(start=0.0)).images.astype(int) - alone).max() > 1


def test_a_story_has_a_second_pass_and_its_pictures_can_be_enlarged(studio):
    second = {"second_pass": {"key": "latent", "factor": 1.5, "strength": 0.6}}
    told = run(studio, **story(), **second)
    assert told.images.shape == (2, 192, 192, 3)
    record = studio.store.get(told.results[0])
    values = {"base": record.metadata["request"], "picture": record.path.read_bytes(), "factor": 1.5, "strength": 0.5}
    upscaled = ended(studio.submit("upscale", values))
    assert upscaled.status.value == "done", upscaled.message


def test_tasks_of_single_pictures_say_that_they_tell_none(studio):
    values = {**REQUEST, **story()}
    for task, extra in {"compare": {"cells": [{"seed": 1}]}, "convergence": {}, "animate": {"frames": 2}}.items():
        with pytest.raises(StepwiseError, match="tells no story"):
            studio.submit(task, {"base": values, **extra})
    with pytest.raises(StepwiseError, match="no scenes"):
        studio.submit("text_to_image", {**REQUEST, "story": {"key": "style"}})
    for name, text in (("Scenes", ["one", "two"]), ("Subject", 3)):
        told = {"key": "style", "scenes": SCENES, name.lower(): text}
        with pytest.raises(StepwiseError, match=f"{name} is .* must be text"):
            studio.submit("text_to_image", {**REQUEST, "story": told})


@pytest.mark.parametrize("guidance", ["attend_and_excite", "a_star", "judged"])
def test_a_guidance_that_reads_the_prompt_tells_the_story_again(studio, guidance):
    """A stored picture's prompt names its scene; the words that count are those of the subject."""
    drawn = {"guidance": guidance, "width": 64, "height": 64, "num_inference_steps": 3}
    told = run(studio, **story(scenes="on a blue background|with a rose and two cats"), **drawn)
    record = studio.store.get(told.results[1])
    restored = read_settings(studio, str(record.path), "emoji-128")
    np.testing.assert_array_equal(run(studio, **restored.values).images, told.images)


@pytest.mark.parametrize(("model", "key"), [("emoji-128", "consistent"), ("emoji-128-flow", "style")])
def test_a_story_goes_with_a_guidance_that_takes_gradients(studio, model, key):
    drawn = {"guidance": "minority", "width": 64, "height": 64, "num_inference_steps": 4}
    told = run(studio, model=model, story={"key": key, "scenes": SCENES, "start": 0.0}, **drawn)
    assert len(told.images) == 2

"""Inspections in the studio: the task, the command, the endpoint, and what the page shows of them."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import MethodFitError, PromptError, SettingsError
from studio.jobs.job import JobStatus
from studio.page.text_to_image.inspect import draw_curve, encode_map_url
from studio.page.text_to_image.inspect import render_finding as render
from studio.tasks import TASKS
from tests.studio.task_examples import FOX as FOX_RUN
from tests.studio.task_examples import Example
from tests.studio.waiting import ended

EXAMPLE = Example(
    {"base": FOX_RUN, "inspection": {"key": "seed_shift", "points": 3}},
    {"inspection": {"key": "seed_shift", "points": 20}},
    has_results=False,
)
"""For the tests of all tasks."""


FOX = {"model": "emoji", "prompt": "a fox on a blue background", "num_inference_steps": 4, "seed": 3}


def source() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (80, 64), (90, 120, 200)).save(stream, "PNG")
    return stream.getvalue()


def test_a_words_map_lies_over_the_picture_and_nothing_is_stored(studio):
    stored = len(list(studio.store.folder.rglob("*.png")))
    picture = base64.b64encode(source()).decode()
    inspection = {"key": "word_attention", "draws": 2}
    view = ended(studio.submit("inspect", {"base": FOX, "inspection": inspection, "picture": picture}))
    assert view.status is JobStatus.DONE, view.message
    assert list(view.outcome["maps"]) == ["a", "fox", "on", "a (2)", "blue", "background"]
    assert np.shape(view.outcome["maps"]["fox"]) == (16, 16)
    assert view.cells[0].images.shape == (1, 64, 64, 3)
    assert view.cells[0].figures["evaluations"] == 2
    json.dumps(dict(view.outcome))
    html = render(view, "x")["found"]["html"]
    assert html.count("data-map=") == 6 and html.count('aria-pressed="true"') == 1
    assert len(list(studio.store.folder.rglob("*.png"))) == stored


def test_a_probe_shows_its_pictures_and_its_curve(studio):
    view = ended(studio.submit("inspect", {"base": FOX, "inspection": {"key": "seed_shift", "points": 3}}))
    assert view.status is JobStatus.DONE, view.message
    assert view.outcome["curve"][0] == [0.0, 0.0] and len(view.outcome["curve"]) == 3
    html = render(view, "x")["found"]["html"]
    assert html.count('class="sw-probe"') == 1 and html.count("<circle") == 3
    assert "Shift of the noise" in html


def test_a_learned_word_is_saved_and_a_prompt_of_the_loaded_model_reads_it(studio):
    inspection = {"key": "personalization", "word": "my-fox", "start": "fox", "steps": 1}
    base, file = {**FOX, "num_inference_steps": 1}, studio.catalog.folder / "embeddings" / "my-fox.safetensors"
    try:
        view = ended(studio.submit("inspect", {"base": base, "inspection": inspection}))
        assert view.status is JobStatus.DONE, view.message
        assert file.is_file() and view.cells[0].images.shape == (2, 64, 64, 3) and len(view.outcome["curve"]) == 2
        prompt = "a my-fox on a blue background"
        drawn = ended(studio.submit("text_to_image", {**base, "prompt": prompt}))
        assert np.array_equal(drawn.cells[0].images[0], view.cells[0].images[1])
    finally:
        file.unlink(missing_ok=True)


def test_the_command_writes_what_was_found(studio, tmp_path):
    import argparse

    command, out = TASKS["inspect"].command, tmp_path / "found.json"
    parser = argparse.ArgumentParser()
    command.add_flags(parser)
    (tmp_path / "picture.png").write_bytes(source())
    flags = ["--picture", str(tmp_path / "picture.png"), "--inspection", "classifier,draws=2"]
    typed = parser.parse_args([*flags, "--compare-prompts", "a cat; a fox on a blue background"])
    typed.out = out
    job = studio.submit("inspect", command.values(typed, FOX))
    ended(job)
    lines = list(command.write(job, typed, studio))
    found = json.loads(out.read_text())
    first, _, third = found["figures"].values()
    assert first == third  # the same prompt on the same draws
    assert lines[-1] == out and len(lines) in (4, 5)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"base": FOX, "inspection": "x-ray"}, "Unknown inspection"),
        ({"base": FOX, "inspection": {"key": "seed_shift", "points": 1}}, "points is 1"),
        ({"base": FOX, "picture": "no picture"}, "picture"),
        ({"base": {**FOX, "prompt": ""}}, "prompt"),
        ({"base": {**FOX, "batch_size": 2}}, "one picture"),
        ({"base": FOX, "words": "fox"}, "inspection"),
        ({"base": FOX, "inspection": {"key": "personalization", "start": "cat"}}, "The prompt has no word 'cat'"),
        (
            {"base": FOX, "inspection": {"key": "personalization", "word": "emoji-mint"}},
            "There is an embedding 'emoji-mint' already",
        ),
    ],
)
def test_bad_input_is_refused_with_a_sentence_before_it_queues(studio, values, sentence):
    with pytest.raises(SettingsError, match=sentence):
        studio.submit("inspect", values)


def test_a_model_that_has_no_words_to_look_at_is_refused_before_it_queues(studio):
    values = {"base": {"model": "emoji-128-flow", "prompt": "a fox"}, "inspection": {"key": "personalization"}}
    with pytest.raises(MethodFitError, match="more than one text encoder"):
        studio.submit("inspect", values)


@pytest.mark.parametrize(
    ("inspection", "prompt", "words"),
    [
        ("classifier", "a fox", "nothing to choose"),
        ({"key": "classifier", "prompts": " ; "}, "a fox", "nothing to choose"),
        ({"key": "word_information", "words": "fox"}, "a fox", "1 are given"),
        ("word_information", "fox", "1 are given"),
    ],
)
def test_texts_that_cannot_be_compared_are_refused_before_it_queues(studio, inspection, prompt, words):
    with pytest.raises(PromptError, match=words):
        studio.submit("inspect", {"base": {"model": "emoji", "prompt": prompt}, "inspection": inspection})


def test_a_map_is_the_more_opaque_the_larger_it_is_and_an_even_one_is_clear():
    def alpha(values):
        data = base64.b64decode(encode_map_url(np.asarray(values)).partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(data)))[..., 3]

    shown = alpha([[0.0, 1.0], [0.0, 1.0]])
    assert shown[:, 0].max() == 0 and shown[:, -1].min() == 230
    assert not alpha(np.full((4, 4), 0.3)).any()


def test_a_curve_that_stands_still_can_be_drawn():
    assert draw_curve([(0.0, 0.0), (0.0, 0.0)], ("x", "<y>")).count("&lt;y&gt;") == 2

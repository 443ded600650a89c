"""What a stored picture says makes it again: prompts that draw to themselves, own seeds, seeds of 63 bits."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pipelines.core.errors import SettingsError
from pipelines.core.types import Request
from pipelines.prompts.brackets import unescape
from pipelines.requests.limits import Limits, check_request
from pipelines.requests.wildcards import escape_wildcards, expand_wildcards
from pipelines.workflows.compare.axes import Axis
from pipelines.workflows.compare.axis_values import parse_numbers
from studio import infotext
from studio.infotext import Restored
from studio.jobs.job import JobStatus
from studio.ui.live_routes import _write_large_numbers_as_text
from studio.ui.restore import read_settings
from tests.studio.waiting import ended

LARGEST = 2**63 - 1
BASE = {"prompt": "a fox", "num_inference_steps": 2, "seed": 5, "guidance": {"key": "cfg", "guidance_scale": 1.0}}


def ran(studio, values):
    view = ended(studio.submit("text_to_image", values))
    assert view.status is JobStatus.DONE, view.message
    return view.cells[0]


def path_of(studio, result):
    return studio.store.get(result).path


# Prompts.


def test_an_escaped_text_draws_to_itself():
    draw = random.Random(4)
    lists = {"a": ["drawn"], "a_b": ["drawn"], "_": ["drawn"]}
    for _ in range(20_000):
        text = "".join(draw.choice("\\\\{}|__aB ") for _ in range(draw.randint(0, 12)))
        escaped = escape_wildcards(text)
        assert expand_wildcards(escaped, draw.randint(0, 9), lists) == escaped == escape_wildcards(escaped), text
        if "\\" not in text:
            assert unescape(escaped) == text


def test_a_text_without_wildcards_is_not_escaped():
    for text in ("a fox", "(a:1.2) [b|c]", "one { brace", r"back\slash", "snake_case", "a | b"):
        assert escape_wildcards(text) == text


def test_a_drawn_prompt_is_stored_with_the_typed_one_and_makes_itself_again(studio):
    folder = studio.catalog.folder / "wildcards"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "animal.txt").write_text("a fox\na cat\n")
    typed = r"{red|green} __animal__ with \{braces\} and \__animal__"
    cell = ran(studio, {**BASE, "prompt": typed, "negative_prompt": "{blurry|dull}"})
    record = studio.store.get(cell.results[0])
    drawn = record.parameters.partition("\n")[0]
    assert drawn.endswith(r"with \{braces\} and \__animal__") and drawn.split()[0] in ("red", "green")
    assert record.metadata["typed"] == {"prompt": typed, "negative_prompt": "{blurry|dull}"}
    restored = infotext.read(record.path)
    assert any(typed in note for note in restored.notes)
    for seed in range(3):  # whatever the seed draws, these prompts are drawn already
        assert studio.expand(restored.values["prompt"], seed) == drawn
    again = ran(studio, restored.values)
    np.testing.assert_array_equal(again.images, cell.images)
    assert studio.store.get(again.results[0]).parameters == record.parameters


def test_a_prompt_without_wildcards_has_no_second_one(studio):
    record = studio.store.get(ran(studio, BASE).results[0])
    assert "typed" not in record.metadata and record.metadata["request"]["prompt"] == "a fox"


# Seeds.


def test_each_picture_of_a_batch_carries_its_own_seeds_and_makes_itself_again(studio):
    varied = {**BASE, "variation_seed": 70, "variation_strength": 0.5, "batch_size": 2}
    cell = ran(studio, varied)
    for place, result in enumerate(cell.results):
        restored = infotext.read(path_of(studio, result))
        assert (restored.values["seed"], restored.values["variation_seed"]) == (5 + place, 70 + place)
        text = infotext.read_texts({"parameters": studio.store.get(result).parameters})
        assert text.values["variation_seed"] == 70 + place
        again = ran(studio, restored.values).images
        assert np.abs(again[0].astype(int) - cell.images[place]).max() <= 1  # a batch rounds in another order


def test_the_largest_seed_survives_the_file(studio):
    values = {**BASE, "seed": LARGEST, "variation_seed": LARGEST - 1, "variation_strength": 0.25}
    cell = ran(studio, values)
    record = studio.store.get(cell.results[0])
    for restored in (infotext.read(record.path), infotext.read_texts({"parameters": record.parameters})):
        assert (restored.values["seed"], restored.values["variation_seed"]) == (LARGEST, LARGEST - 1)


def test_a_batch_may_not_run_past_the_largest_seed():
    check_request(Request(prompt="x", seed=LARGEST), Limits())
    check_request(Request(prompt="x", seed=LARGEST - 3, batch_size=4), Limits())
    with pytest.raises(SettingsError, match="seed is 9223372036854775807"):
        check_request(Request(prompt="x", seed=LARGEST, batch_size=2), Limits())
    check_request(Request(prompt="x", variation_seed=LARGEST, batch_size=2), Limits())
    with pytest.raises(SettingsError, match="variation seed"):
        check_request(Request(prompt="x", variation_seed=LARGEST, variation_strength=0.5, batch_size=2), Limits())


@pytest.mark.parametrize("field", ["seed", "variation_seed"])
def test_seeds_are_exact_on_an_axis(field):
    assert Axis.parse({"field": field, "values": f"{LARGEST}, 7"}, 9).values == (LARGEST, 7)
    start = 2**60 + 1
    assert Axis.parse({"field": field, "values": f"{start}-{start + 2}"}, 9).values == (start, start + 1, start + 2)
    assert Axis.parse({"field": field, "values": [LARGEST]}, 9).values == (LARGEST,)
    assert Axis.parse({"field": field, "values": f"{start + 4}-{start}:2"}, 9).values == (start + 4, start + 2, start)


def test_other_numbers_of_an_axis_are_as_before():
    assert parse_numbers("1, 4, 10-30:10", True, 9) == [1, 4, 10, 20, 30]
    assert parse_numbers("0-0.6:0.2", False, 9) == [0, 0.2, 0.4, 0.6]
    assert parse_numbers("0.5, 2-1", False, 9) == [0.5, 2, 1]
    for wrong in ("1.5", f"{2**63}", "1-9:0", "x", "1-1000000"):
        with pytest.raises(SettingsError):
            parse_numbers(wrong, True, 9)


def test_what_the_browser_remembers_holds_no_number_that_it_would_round():
    draft = {"form": {"seed": LARGEST, "steps": 20}, "keys": [{"seed": 2**53 + 1}, {"seed": 2**53}], "fine": True}
    assert _write_large_numbers_as_text(draft) == {
        "form": {"seed": str(LARGEST), "steps": 20},
        "keys": [{"seed": str(2**53 + 1)}, {"seed": 2**53}],
        "fine": True,
    }


# Pictures of other programs.


def foreign(values, *loras):
    return Restored(
        values, ["The picture names LoRAs ('x' at 1): choose them yourself if you have them."], "a1111", "", loras
    )


def test_another_program_s_braces_are_literal_and_its_loras_are_chosen_by_name(studio, monkeypatch):
    loras = ({"name": "styles/Sketch.safetensors", "weight": 0.8}, {"name": "gone", "weight": 1.0})
    monkeypatch.setattr(studio, "loras", lambda model: ["sketch", "neon"])
    monkeypatch.setattr(studio, "read_picture", lambda path: foreign({"prompt": "{red|blue} __animal__ fox"}, *loras))
    restored = read_settings(studio, "any", "emoji")
    assert studio.expand(restored.values["prompt"], 3) == restored.values["prompt"]
    assert unescape(restored.values["prompt"]) == "{red|blue} __animal__ fox"
    assert restored.values["loras"] == [{"name": "sketch", "weight": 0.8}]
    assert any("chosen by their names: 'sketch' at 0.8" in note for note in restored.notes)
    assert any("'gone'" in note for note in restored.notes)
    assert not any("choose them yourself" in note for note in restored.notes)


def test_loras_that_are_not_here_are_only_named(studio, monkeypatch):
    monkeypatch.setattr(studio, "loras", lambda model: ["neon"])
    monkeypatch.setattr(studio, "read_picture", lambda path: foreign({"prompt": "a fox"}, {"name": "x", "weight": 1.0}))
    restored = read_settings(studio, "any", "emoji")
    assert "loras" not in restored.values and any("choose them yourself" in note for note in restored.notes)

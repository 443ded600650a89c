"""Clicks on the source picture, and the source prompt that the classifier suggests."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from pipelines.edits.dragon import read_points
from pipelines.emoji.objects import shipped_catalog
from pipelines.models.catalog import SHIPPED
from pipelines.training.edits import edit_pairs, render_edit
from studio.page.edit.mask_editor import build_board
from studio.page.edit.pointing import add_point, find_shift
from studio.page.edit.source_prompt import suggest_source_prompt
from tests.studio.page_forms import built


@pytest.fixture(scope="module")
def tab(studio):
    return built(studio).tabs["edit"]


def test_a_click_says_how_far_the_masks_middle_goes():
    mask = np.zeros((40, 80), bool)
    mask[10:20, 20:40] = True  # its middle is 30, 15
    assert find_shift(mask, (69, 14)) == (pytest.approx(0.49, abs=0.01), pytest.approx(-0.01, abs=0.01))


def test_clicks_make_pairs_of_points_that_are_read_back():
    text = ""
    for point in ((9, 9), (49, 9), (0, 0), (99, 99)):
        text = add_point(text, point, (100, 100))
    assert text == "0.10,0.10 > 0.50,0.10; 0.01,0.01 > 0.99,0.99" or len(read_points(text)) == 2
    assert add_point("", (9, 9), (100, 100)).endswith(">")


def test_the_classifier_says_what_most_pictures_show_and_nothing_of_noise():
    objects = shipped_catalog()
    pairs = edit_pairs(objects, 20, 5, ("replace",))
    read = [suggest_source_prompt(render_edit(pair, objects).source, "emoji") for pair in pairs]
    right = sum(text == pair.source_caption for text, pair in zip(read, pairs, strict=True))
    assert right >= 18 and all(text in ("", pair.source_caption) for text, pair in zip(read, pairs, strict=True))
    named = []
    for photograph in sorted((Path(SHIPPED).parents[1] / "examples" / "photographs").glob("*.jpg")):
        with Image.open(photograph) as image:
            named.append(suggest_source_prompt(image, "emoji"))
    assert len(named) > 3 and sum(map(bool, named)) <= 1  # a rocket in the night may pass for something else
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert (
        suggest_source_prompt(noise, "emoji") == "" == suggest_source_prompt(render_edit(pairs[0], objects).source, "x")
    )


def test_a_click_moves_the_masked_object_and_without_a_mask_says_what_to_do(tab, tmp_path):
    form, picture = tab.edit_form, Image.new("RGB", (64, 64), "red")
    picture.save(tmp_path / "source.png")
    mask = np.zeros((64, 64), bool)
    mask[8:24, 8:24] = True
    board = build_board(picture, mask)
    board["layers"] = [np.asarray(layer) for layer in board["layers"]]
    data = {form.picture: str(tmp_path / "source.png"), form.mask: board, form.edit.method: "move"}
    data |= dict.fromkeys(form.pointed, "")
    event = gr.SelectData(None, {"index": [48, 16], "value": None})
    settings = form.edit.settings["move"]
    updates = tab._point(data, event)
    assert (updates[settings["right"]], updates[settings["down"]]) == (
        pytest.approx(0.51, abs=0.02),
        pytest.approx(0.01, abs=0.02),
    )
    assert "Draw over the object" in tab._point({**data, form.mask: None}, event)[tab.notice]
    points = form.edit.settings["dragon"]["points"]
    assert tab._point({**data, form.edit.method: "dragon"}, event)[points] == "0.76,0.26 >"
    assert set(tab._point({**data, form.edit.method: "reprompt"}, event)) == {tab.notice}

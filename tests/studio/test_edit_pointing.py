"""Arrows that are drawn on the source become settings."""

from __future__ import annotations

import pytest
from PIL import Image

from pipelines.edits.dragon import read_points
from studio.page.edit.pointing import Gesture, add_points, read_gesture
from tests.studio.page_forms import built


@pytest.fixture(scope="module")
def tab(studio):
    return built(studio).tabs["edit"]


def test_a_gesture_is_read_and_anything_else_is_none():
    assert read_gesture("arrow 0.25 0.5 0.75 1.2 3") == Gesture("arrow", 0.25, 0.5, 0.75, 1.0)
    assert read_gesture("clear 4") == Gesture("clear")
    for text in ("", "arrow", "arrow 1 2 x 4", "melt 0 0 1 1", "arrow nan 0 1 1", "box 0 0 1 1"):
        assert read_gesture(text) is None


def test_arrows_make_points_that_are_read_back():
    text = add_points(add_points("", Gesture("arrow", 0.1, 0.2, 0.3, 0.4)), Gesture("arrow", 0, 1, 1, 0))
    assert read_points(text) == [((0.1, 0.2), (0.3, 0.4)), ((0.0, 1.0), (1.0, 0.0))]


def test_what_is_drawn_sets_the_method_that_is_chosen(tab, tmp_path):
    form, pointing = tab.edit_form, tab.edit_form.pointing
    Image.new("RGB", (64, 32), "red").save(tmp_path / "source.png")
    panel = form.edit.panel
    value = {"move": {"scale": 1.5}, "replace": {"blend": "fox"}}
    data = {form.picture: str(tmp_path / "source.png"), form.edit.method: "move", panel.component: value}

    def take(text, **changes):
        return pointing.take({**data, pointing.drawn: text, **changes})

    moved = take("arrow 0.2 0.5 0.7 0.4 1")
    assert panel.read(moved, "move") == {"scale": 1.5, "right": 0.5, "down": -0.1}
    assert panel.read(moved, "replace") == {"blend": "fox"}
    data |= {form.edit.method: "dragon", panel.component: moved[panel.component]}
    assert panel.read(take("arrow 0.2 0.5 0.7 0.4 1"), "dragon") == {"points": "0.20,0.50 > 0.70,0.40"}
    cleared = take("clear 2")
    assert panel.read(cleared, "dragon") == {} and panel.read(cleared, "move") == {"scale": 1.5}
    data[panel.component] = {"dragon": {"points": "0.10,0.10 > 0.20,0.20; " * 21}}
    assert "too many" in take("arrow 0 0 1 1 3")[tab.notice]
    data[form.edit.method] = "reprompt"
    assert "Move or resize" in take("arrow 0 0 1 1 3")[tab.notice]
    assert set(take("arrow x")) == {tab.notice}

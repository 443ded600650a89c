"""Every tab's list of models after one more is there: with the new one, and with what it offered before."""

from __future__ import annotations

import shutil

import pytest

from pipelines.models.catalog import SHIPPED
from studio.backend import Studio, StudioSettings
from tests.studio.page_forms import built

RUNS = ("text_to_image", "compare", "edit", "animate", "quantize")


@pytest.fixture
def studio(tmp_path):
    studio = Studio(StudioSettings(outputs=tmp_path / "outputs", models=tmp_path / "models", device="cpu"))
    yield studio
    studio.close()


def test_a_kept_model_joins_each_list_and_takes_nothing_from_it(studio, tmp_path):
    page = built(studio)
    tabs = page.tabs
    before = {key: {one for _, one in tabs[key].form.fields["model"].choices} for key in RUNS}
    assert "ltx-video" in before["animate"] and "ltx-video" not in before["text_to_image"]
    shutil.copytree(SHIPPED, tmp_path / "models" / "another")
    studio.catalog.rescan()
    updates = page.context.update_lists({component: component.value for component in page.context.list_inputs})
    for key in RUNS:
        offered = {one for _, one in updates[tabs[key].form.fields["model"]]["choices"]}
        assert offered == before[key] | {"another"}, key


def test_a_new_lora_joins_each_list_and_only_a_chosen_one_that_is_gone_is_taken_out(studio):
    page = built(studio)
    studio.loras = lambda model: ["neon", "sketch"]
    data = {component: component.value for component in page.context.list_inputs}
    lora = page.tabs["text_to_image"].form.lora
    data |= {lora.names: ["sketch", "gone"], lora.weights[0]: 0.4}
    updates = page.context.update_lists(data)
    for key in ("compare", "edit", "animate"):
        names = page.tabs[key].form.lora.names
        assert updates[names]["choices"] == ["neon", "sketch"] and "value" not in updates[names], key
    assert updates[lora.names]["value"] == ["sketch"] and updates[lora.weights[0]]["value"] == 0.4
    assert page.tabs["text_to_image"].form.prompt_hint in updates

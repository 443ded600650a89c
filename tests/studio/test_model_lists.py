"""Every tab's list of models after one more is there: with the new one, and with what it offered before."""

from __future__ import annotations

import shutil

import gradio as gr
import pytest

from pipelines.models.catalog import SHIPPED
from studio.backend import Studio, StudioSettings
from studio.ui.page_context import FILES
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
    events = page.context.demo.fns.values()
    (look,) = [one for one in events if getattr(one.fn, "__name__", "") == "look"]
    (held,) = look.outputs
    (fill,) = [one for one in events if (held._id, "change") in one.targets]
    assert look.fn() == held.value, "nothing came: nothing is filled anew"
    shutil.copytree(SHIPPED, tmp_path / "models" / "another")
    assert look.fn() != held.value
    first = tabs["text_to_image"].form.fields["model"]
    updates = fill.fn({component: component.value for component in fill.inputs} | {first: "emoji"})
    for key in RUNS:
        offered = {one for _, one in updates[tabs[key].form.fields["model"]]["choices"]}
        assert offered == before[key] | {"another"}, key
    live = tabs["live"]
    assert "another" in {one for _, one in updates[live.model]["choices"]}
    second = updates[tabs["text_to_image"].form.methods["ensemble"].panel.altered]["composition"]["second"]
    assert "another" in {one for _, one in second["choices"]}


def test_every_list_of_files_looks_into_the_folder_when_it_is_opened(studio):
    page = built(studio)
    form = page.tabs["text_to_image"].form
    opened = [form.fields["model"], form.fields["vae"], form.lora.names, page.tabs["live"].fields["loras"]]
    opened += [one.model for one in form.steered.values()]
    opened += [form.methods[name].panel.component for name in ("ensemble", "sliders", "second_pass")]
    assert all(FILES in one.get_config()["elem_classes"] for one in opened)
    assert FILES not in form.fields["seed"].get_config()["elem_classes"]


def test_a_page_that_is_loaded_is_told_only_what_it_does_not_show(studio, tmp_path):
    page = built(studio)
    (begin,) = [one for one in page.context.demo.fns.values() if one.js and "bringBack" in str(one.js)]
    keys = " ".join(page.context.lists)
    assert begin.fn(keys) == gr.skip(), "Gradio refuses an empty dict"
    shutil.copytree(SHIPPED, tmp_path / "models" / "another")
    updates = begin.fn(keys)
    for key in (*RUNS, "live"):
        tab = page.tabs[key]
        assert (tab.model if key == "live" else tab.form.fields["model"]) in updates, key
    assert begin.fn("") == gr.skip(), "tabs that bring back what was typed fill their lists themselves"


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

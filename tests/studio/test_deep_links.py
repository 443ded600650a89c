"""Links that open a tab with settings: what they carry, and what they are not believed."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlencode

import pytest
from PIL import Image

from pipelines.core.types import Request, Traits
from pipelines.requests.limits import Limits
from studio.backend import Studio, StudioSettings
from studio.ui.deep_links import LONGEST, link, open_link
from tests.studio.page_forms import built, shown

TABS = ("text_to_image", "compare", "edit", "gallery")


@pytest.fixture
def studio():
    return SimpleNamespace(
        limits=Limits(max_steps=100, max_side=512), traits=lambda model: Traits("sd", "epsilon", "unet")
    )


def followed(studio, query: str):
    return open_link(dict(parse_qsl(query.lstrip("?"))), studio, TABS, "emoji")


def test_a_link_brings_back_what_it_was_made_from(studio):
    values = {
        "prompt": "a fox & a <b>cat</b>, 100 % ünï",
        "num_inference_steps": 7,
        "seed": 2**60 + 1,
        "width": 64,
        "height": 128,
        "sampler": {"key": "ddim", "eta": 0.5},
        "guidance": {"key": "cfg", "guidance_scale": 5.5},
        "variation_strength": 0.25,
    }
    query = link("compare", {**Request().to_json(), **values})
    assert query.startswith("?tab=compare&") and "schedule" not in query  # what is as by default is left out
    found = followed(studio, query)
    assert (found.tab, found.values, found.notes) == ("compare", values, ())


def test_a_link_without_settings_only_opens_its_tab(studio):
    assert followed(studio, "?tab=gallery") == open_link({"tab": "gallery"}, studio, TABS, "emoji")
    assert followed(studio, "?tab=gallery").values == {}
    for query in ("", "?tab=", "?__theme=dark"):
        assert followed(studio, query) is None


def test_a_link_without_a_tab_goes_to_the_first_and_an_unknown_tab_is_said(studio):
    found = followed(studio, "?prompt=a+fox&seed=3")
    assert (found.tab, found.values, found.notes) == ("text_to_image", {"prompt": "a fox", "seed": 3}, ())
    found = followed(studio, "?tab=../../etc&prompt=a+fox")
    assert (found.tab, found.values) == ("text_to_image", {"prompt": "a fox"})
    assert "'../../etc', which this page does not have" in found.notes[0]


@pytest.mark.parametrize(
    ("query", "values", "words"),
    [
        ("num_inference_steps=100000", {"num_inference_steps": 100}, "moved to 100"),
        ("width=99999", {"width": 512}, "width 99999 was moved to 512"),
        ("batch_size=0", {"batch_size": 1}, "moved to 1"),
        ("seed=-1", {}, "a seed lies between"),
        ("seed=x", {}, "not a whole number"),
        ("sampler=hune", {}, "Unknown sampler"),
        ("sampler=ddim,eta", {}, "has no value"),
        ("sampler=ddim,eta=99", {}, "sampler was not loaded"),
        ("schedule=%20&made_like=%20", {}, "schedule was not loaded: the link names none"),
        ("sampler=flow_euler", {}, "does not fit"),
        ('sampler=ddim,eta={"a":1}', {}, "not plain values"),
        ("model=http://127.0.0.1/x.safetensors", {}, "is not here or not for this tab"),
        ("model=../../etc/passwd", {}, "is not here or not for this tab"),
        (f"prompt={'x' * (LONGEST + 1)}", {}, "None were loaded"),
    ],
)
def test_a_link_is_not_believed(studio, query, values, words):
    found = followed(studio, f"?tab=text_to_image&{query}")
    assert found.values == values
    assert words in " ".join(found.notes)
    assert len(found.notes) == query.count("&") + 1  # each thing is said once


def test_what_no_link_carries_is_ignored(studio):
    found = followed(studio, "?tab=edit&prompt=a+fox&picture=/etc/passwd&mask=x&nonsense=1&__theme=dark")
    assert found.values == {"prompt": "a fox"} and found.notes == ()
    assert "model" not in followed(studio, "?tab=edit&prompt=a&model=sd15").values


def test_control_characters_do_not_get_through(studio):
    found = followed(studio, "?tab=edit&prompt=a%00b%1bc")
    assert found.values == {"prompt": "abc"}


# Each tab's own settings.

PICTURE = {
    "prompt": "a fox & {a|b}, 100 %",
    "num_inference_steps": 25,
    "seed": 0,
    "width": 64,
    "height": 96,
    "sampler": {"key": "ddim", "eta": 0.5},
    "schedule": {"key": "hand_typed", "steps": "900, 500, 100"},
    "guidance": {"key": "cfg", "guidance_scale": 7.5},
}
WALKS = "emoji-128"
"""The model on which Video stands here: it opens on one of clips, and only a model of pictures walks."""
OWN = {
    "text_to_image": {},
    "edit": {
        "edit": {"key": "reweight", "words": "fox=2, blue=0.5"},
        "inversion": {"key": "edict", "strength": 0.7},
        "source_prompt": "a cat; with, signs = & ü",
        "fit": "resize",
    },
    "animate": {
        "method": {"key": "walk", "loop": True, "easing": "linear"},
        "frames": 31,
        "fps": 7,
        "format": "gif",
        "keys": [{"prompt": 'a "cat", {x}', "seed": 2**60 + 1}, {"seed": 3}, {}],
    },
    "quantize": {"variants": [{"key": "int4", "group_size": 16}, {"key": "fp8"}], "measure": False, "peak": True},
    "compare": {
        "cells": [
            {"sampler": "heun", "schedule": "karras", "num_inference_steps": 4},
            {"sampler": "lms", "schedule": "uniform", "guidance.guidance_scale": 2.5},
        ],
        "equal": "steps",
        "reference": False,
        "reference_steps": 77,
    },
    "gallery": {"search": "fox & blue", "kind": "edit"},
    "models": {"family": "flux", "kind": "image", "where": "hub"},
}
PREFIXES = {
    "text_to_image": "t2i",
    "compare": "cmp",
    "edit": "edit",
    "animate": "vid",
    "quantize": "qz",
    "gallery": "gal",
}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    studio = Studio(StudioSettings(outputs=home / "outputs", models=home / "models", device="cpu"))
    studio.store.save(Image.new("RGB", (8, 8)), {}, kind="edit")
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def page(real):
    return built(real)


def standing(page, updates):
    return shown({part for part in page.context.demo.blocks.values() if hasattr(part, "value")}, updates)


def read(page, key, data):
    """What the tab would run, or, of a tab that runs nothing, what it shows."""
    tab = page.tabs[key]
    if key == "edit":
        draft = tab.edit_form.draft(data)
        return {**draft, "form": tab.form.request(draft["form"])}
    if key in ("gallery", "models"):
        where = tab.result_list if key == "gallery" else tab
        return {name: data[getattr(where, name)] for name in OWN[key]}
    return tab._read(data)[1]


def copied(page, key, data):
    """The text that the tab's button copies."""
    parts = {part.elem_id: part for part in page.context.demo.blocks.values() if getattr(part, "elem_id", None)}
    button, text = (parts[f"{PREFIXES[key]}-{name}"] for name in ("link", "link-text"))
    pressed = next(one for one in page.context.demo.fns.values() if (button._id, "click") in one.targets)
    return pressed.fn({component: data[component] for component in pressed.inputs})[text]["value"]


def opened_here(page, real, query):
    parameters = dict(parse_qsl(query.lstrip("?"), keep_blank_values=True))
    receivers = {**page.context.receive, "animate": dataclasses.replace(page.context.receive["animate"], model=WALKS)}
    return open_link(parameters, real, page.context.tab_keys, "emoji", receivers)


@pytest.mark.parametrize(
    ("key", "model"), [("text_to_image", "emoji"), ("animate", "emoji-128"), ("edit", "emoji-128")]
)
def test_a_link_chooses_the_model_that_it_was_made_with(page, real, key, model):
    receiver = page.context.receive[key]
    before = standing(page, receiver.updates({"model": model, "prompt": "a fox", "seed_mode": "fixed"}))
    query = copied(page, key, before)
    found = open_link(dict(parse_qsl(query[1:])), real, page.context.tab_keys, "emoji", page.context.receive)
    assert found.notes == () and found.values["model"] == model
    after = standing(page, receiver.updates({**found.values, "seed_mode": "fixed"}))
    assert read(page, key, after) == read(page, key, before)


def test_a_model_that_would_have_to_be_downloaded_is_named_only(page, real):
    (away,) = [one for one in page.context.receive["text_to_image"].models() if one.key == "sd15"]
    assert not real.model_list.is_here(away)
    query = {"tab": "text_to_image", "prompt": "a fox", "model": "sd15"}
    found = open_link(query, real, page.context.tab_keys, "emoji", page.context.receive)
    assert found.values == {"prompt": "a fox"} and away.label in found.notes[0] and "to download it" in found.notes[0]


def test_a_link_brings_the_loras_back_that_are_here_and_names_the_others(page, real):
    receiver = page.context.receive["text_to_image"]
    (name,) = real.loras("emoji-128")
    loras = [{"name": name, "weight": -0.5}]
    query = copied(page, "text_to_image", standing(page, receiver.updates({"prompt": "a fox", "loras": loras})))
    parameters = dict(parse_qsl(query[1:]))
    found = open_link(parameters, real, page.context.tab_keys, "emoji-128", page.context.receive)
    assert (found.values["loras"], found.notes) == (loras, ())
    assert read(page, "text_to_image", standing(page, receiver.updates(found.values)))["loras"] == loras
    for text, words in (
        ("../x,y:2", "'../x' and 'y' are not in the models folder"),
        (f"{name}:9", "a weight from -4 to 4"),
        (f"{name}:nan", "a weight from -4 to 4"),
    ):
        found = open_link({"tab": "edit", "loras": text}, real, page.context.tab_keys, "emoji-128")
        assert found.values["loras"] == [] and words in " ".join(found.notes)


def test_a_tabs_own_settings_are_read_for_the_model_that_the_tab_opens_on(page, real):
    query = copied(page, "animate", standing(page, {}))
    assert "method=animatediff" in query
    parameters = dict(parse_qsl(query[1:], keep_blank_values=True))
    found = open_link(parameters, real, page.context.tab_keys, WALKS, page.context.receive)
    assert found.notes == () and found.values["animate"]["method"]["key"] == "animatediff"


@pytest.mark.parametrize("key", PREFIXES)
def test_the_copied_link_of_each_tab_brings_all_of_it_back(page, real, key):
    receiver = page.context.receive[key]
    picture = {**PICTURE, "seed_mode": "fixed"} if receiver.request else {}
    chosen = {"model": WALKS} if key == "animate" else {}
    before = standing(
        page, receiver.updates({**chosen, **picture, **({receiver.name: OWN[key]} if receiver.name else {})})
    )
    query = copied(page, key, before)
    assert query.startswith(f"?tab={key}")
    found = opened_here(page, real, query)
    assert found.notes == ()
    seeded = {"seed_mode": "fixed"} if receiver.request else {}
    after = standing(page, receiver.updates({**chosen, **found.values, **seeded}))
    assert read(page, key, after) == read(page, key, before)
    assert {name: read(page, key, after)[name] for name in OWN[key]} == OWN[key]
    never = {"model", "picture", "mask", "first_frame", "loras", "keep"} - chosen.keys()
    assert not never & dict(parse_qsl(query[1:])).keys()


def test_a_grids_axes_come_back_and_a_link_compares_only_models_that_are_here(page, real):
    receiver, axes = page.context.receive["compare"], {"x": {"field": "prompt", "values": "a fox | a cat, red"}}
    before = standing(page, receiver.updates({"prompt": "a fox", "comparison": axes}))
    found = opened_here(page, real, copied(page, "compare", before))
    assert found.values["comparison"]["x"] == axes["x"] and "y" not in found.values["comparison"]
    found = opened_here(page, real, "?tab=compare&x=model=emoji,sd15&y=sampler=heun")
    assert "x" not in found.values["comparison"] and "not on this machine: sd15" in " ".join(found.notes)
    found = opened_here(page, real, "?tab=compare&x=model=emoji,emoji-128")
    assert found.values["comparison"]["x"]["values"] == "emoji,emoji-128" and found.notes == ()


def test_the_models_filter_comes_from_a_link(page, real):
    found = opened_here(page, real, "?" + urlencode({"tab": "models", **OWN["models"]}))
    updates = page.context.receive["models"].updates(found.values)
    assert read(page, "models", standing(page, updates)) == OWN["models"]
    assert "flux" in updates[page.tabs["models"].cards].lower()


def test_a_link_searches_the_gallery(page, real):
    results = page.tabs["gallery"].result_list
    updates = page.context.receive["gallery"].updates(opened_here(page, real, "?tab=gallery&kind=edit&search=").values)
    assert 'class="sw-piece"' in updates[results.grid] and updates[results.kind]["value"] == "edit"
    found = opened_here(page, real, "?tab=gallery&kind=edit&search=owl&prompt=a+fox")
    assert "Nothing found" in page.context.receive["gallery"].updates(found.values)[results.grid]
    assert "prompt" not in found.values and "cannot set the fields of a picture" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("query", "values", "words"),
    [
        ("tab=animate&frames=10000", {"animate": {"frames": 257}}, "moved to 257"),
        ("tab=animate&frames=NaN", {}, "not a whole number"),
        ("tab=animate&fps=-3", {"animate": {"fps": 1}}, "moved to 1"),
        ("tab=animate&format=../x", {}, "Unknown format"),
        ("tab=animate&method=svd", {}, "does not fit"),
        ("tab=animate&method=walk,frames_at_once=9999", {}, "method was not loaded"),
        ("tab=animate&keys=" + "[" * 3000, {}, "cannot be read"),
        ('tab=animate&keys=[{"seed":-1}]', {}, "not a whole number from 0"),
        ('tab=animate&keys=[{"prompt":["x"]}]', {}, "must be a text"),
        ("tab=edit&edit=dance", {}, "Unknown edit"),
        ("tab=edit&edit=image_to_image,strength=9", {}, "from 0"),
        ("tab=edit&inversion={", {}, "cannot be read"),
        ("tab=edit&fit=/etc/passwd", {}, "Unknown way to fit"),
        ("tab=quantize&variants=int8;int8,x=1", {}, "variants was not loaded"),
        ("tab=quantize&variants=bnb_int8", {}, "does not fit"),
        ("tab=quantize&measure=1", {}, "neither yes nor no"),
        ("tab=compare&cells=[{},{}]&cells_=x", {"comparison": {"cells": [{}, {}]}}, ""),
        ('tab=compare&cells=[{"model":"/x"},{}]', {"comparison": {"cells": [{}, {}]}}, "left out (model)"),
        ('tab=compare&cells=[{"steps":1e9},{}]', {}, "Choose 1 to"),
        ("tab=gallery&kind=x", {}, "Unknown kind of result"),
        ("tab=models&where=http://127.0.0.1", {}, "Unknown where"),
    ],
)
def test_a_tabs_own_settings_are_not_believed(page, real, query, values, words):
    found = opened_here(page, real, f"?{query}")
    assert found.values == values
    assert words in " ".join(found.notes) and (words or not found.notes)


def test_what_names_a_file_a_model_or_a_run_is_no_tabs_setting(page):
    for receiver in page.context.receive.values():
        assert not {"model", "picture", "mask", "first_frame", "loras", "job", "keep", "run"} & receiver.settings.keys()


@pytest.mark.parametrize("key", ["text_to_image", "animate", "quantize"])
def test_what_the_browser_remembers_of_a_tab_comes_back_with_its_settings(page, key):
    """A draft goes through the browser as JSON; a quantizer's settings once made the answer one that is none."""
    tab = page.tabs[key]
    values = {"prompt": "an owl", "num_inference_steps": 9, "sampler": {"key": "ddim", "eta": 0.5}}
    typed = tab.form.updates(values) | (tab.settings["int4"].show({"group_size": 16}) if key == "quantize" else {})
    before = standing(page, typed)
    draft, values = tab._read(before)
    updates = tab._refill(json.loads(json.dumps(draft)))
    json.dumps([update for part, update in updates.items() if part is not None])
    after = standing(page, updates)
    assert {**tab._read(after)[1], "seed": 0, "base": 0} == {**values, "seed": 0, "base": 0}
    if key == "quantize":
        assert tab._read(after)[0]["settings"]["int4"] == {"group_size": 16}

"""Every field of every run button's form, filled with what the page never sends: at most a sentence comes back."""

from __future__ import annotations

import dataclasses
import json

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from pipelines.core.errors import StepwiseError
from pipelines.edits import EDITS
from pipelines.requests.limits import TABLES
from pipelines.workflows.video import VIDEOS
from studio.backend import Studio, StudioSettings
from studio.page.page import build_page
from studio.page.tabs import TABS
from studio.reliability.page import PageForm, list_files, read_forms
from studio.tasks import TASKS
from tests.studio.task_examples import OFFERED

ODD = [None, [], {}, "x", -3, 10**400, [[]], True]
"""Each field is filled with every other one of these, and fields of one kind come at odd and at even places."""

RUNS = tuple(
    key for key in OFFERED if key != "inspect" and "picture" not in [one.name for one in TASKS[key].endpoint.arguments]
)
"""Tasks that begin without a picture, so that their untouched forms are taken; the page inspects what it shows."""


class Unworked(Studio):
    """A studio whose queue takes everything and does nothing of it."""

    def __init__(self, settings):
        super().__init__(settings)
        self.engine.submit = lambda job: None


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    home = tmp_path_factory.mktemp("forms")
    studio = Unworked(StudioSettings(outputs=home / "outputs", models=home / "models", device="cpu"))
    demo = build_page(studio)
    config = json.loads(json.dumps(demo.get_config_file(), default=str))
    yield read_forms(config), TestClient(Starlette(routes=demo.routes), raise_server_exceptions=False)
    studio.close()


def list_panels(form):
    """The form's fields that hold settings of methods, with the chosen method and one of its settings."""
    panels = {}
    for kind, table in {**TABLES, "video": VIDEOS, "edit": EDITS}.items():
        chosen = dict(zip(form.names, form.values, strict=True)).get(kind)
        fields = dataclasses.fields(table[chosen].settings) if chosen in table else ()
        if fields and f"{kind}_settings" in form.names:
            panels[f"{kind}_settings"] = chosen, fields[0].name
    return panels


def ask(client, tab, values, **more):
    return client.post(f"/stepwise/{tab}/run", content=json.dumps({"values": values, **more}))


def test_every_run_button_of_the_page_has_its_form(page):
    found, _ = page
    assert {*OFFERED} <= {*found} <= {*TASKS, "edit_words"}
    assert {tab.key for tab in TABS} - {*found} == {"gallery", "models"}
    assert [found[tab].reader is not None for tab in RUNS] == [False] * len(RUNS) and found["edit"].reader is not None
    assert all(len(form.names) == len(set(form.names)) for form in found.values())
    assert all(len(found[tab].names) > 20 for tab in (*RUNS, "edit"))
    assert all(len(list_panels(found[tab])) >= 2 for tab in ("text_to_image", "animate", "quantize"))
    with pytest.raises(StepwiseError, match="no field"):
        found["animate"].filled(nonsense=1)


@pytest.mark.parametrize("tab", (*RUNS, "live"))
def test_an_untouched_form_is_taken_and_with_any_one_odd_value_at_most_refused(page, tab):
    found, client = page
    form = found[tab]
    panels = list_panels(form)
    assert ask(client, tab, form.filled()).status_code == 200
    for place, name in enumerate(form.names):
        odd_values = ODD[place % 2 :: 2]
        if name in panels:  # its value is settings by method
            method, setting = panels[name]
            odd_values += [{method: odd} for odd in odd_values] + [{method: {setting: odd}} for odd in ODD]
        for odd in odd_values:
            answer = ask(client, tab, form.filled(**{name: odd}), owner=odd)
            assert answer.status_code in (200, 422), (name, odd, answer.text[:200])
            assert answer.status_code == 200 or answer.json()["detail"].endswith("."), (name, odd, answer.text)


@pytest.mark.parametrize("field", ["prompt", "steps", "sampler", "loras"])
def test_what_no_json_holds_is_refused_also_where_it_stands_in_a_list(page, field):
    found, client = page
    form = found["text_to_image"]
    for odd in (float("inf"), float("nan"), [float("-inf")]):
        assert "readable" in ask(client, "text_to_image", form.filled(**{field: odd})).json()["detail"]
    long = json.dumps({"values": form.filled(**{field: 7})}).replace("7", "1e400", 1)
    assert client.post("/stepwise/text_to_image/run", content=long).status_code == 422
    for odd in ("a \ud83e fox", ["\ud800"], {"\ud800": 1}):
        assert "half of a character" in ask(client, "text_to_image", form.filled(**{field: odd})).json()["detail"]


def test_a_whole_character_passes(page):
    found, client = page
    answer = ask(client, "text_to_image", found["text_to_image"].filled(prompt="a 🦊"))
    assert answer.json()["session"]["draft"]["prompt"] == "a 🦊"


def test_a_sentence_that_quotes_half_a_character_still_leaves(page, monkeypatch):
    found, client = page
    said = "There is no LoRA 'x'. Known: '\udcff'."

    def refuse(*_):
        raise StepwiseError(said)

    monkeypatch.setattr(Unworked, "submit", refuse)
    answer = ask(client, "text_to_image", found["text_to_image"].filled())
    assert answer.status_code == 422 and answer.json()["detail"] == said.replace("\udcff", "?")


def test_what_an_event_names_is_found():
    said = {"parts": {"a": {"file": "/x/1.png"}, "b": {"html": '<img data-file="/x/2.png">'}, "c": {"hidden": None}}}
    assert list_files(said) == {"/x/1.png", "/x/2.png"}


def test_a_form_knows_its_fields_by_name():
    form = PageForm("t", "t", ("steps", "seed"), (3, "0"))
    assert form.filled(seed="7") == [3, "7"]

"""Settings dataclasses become components and come back unchanged."""

from __future__ import annotations

import dataclasses
import json

import gradio as gr
import pytest

from pipelines.caches import CACHES
from pipelines.core.errors import UnknownMethodError
from pipelines.core.registry import Method, Table, parse_settings, setting, setting_type
from pipelines.core.types import Traits
from pipelines.guidance import GUIDANCE
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from studio.ui.controls import build_method_controls
from studio.ui.settings_panel import DescribingBlocks, build_descriptions, build_single_panel, describe_settings
from tests.studio.page_forms import shown as shown_after

TABLES = (SAMPLERS, SCHEDULES, GUIDANCE, CACHES)
METHODS = [pytest.param(table, key, id=f"{table.kind}-{key}") for table in TABLES for key in table]
FLOW = Traits(family="sd3", prediction_type="flow", backbone="transformer")


@dataclasses.dataclass(frozen=True)
class EveryKind:
    """One setting of each kind that a table may hold."""

    flag: bool = setting(True, "Yes or no.")
    count: int = setting(3, "Whole.", low=1, high=9)
    free: int = setting(7, "Whole, unbounded.")
    share: float = setting(0.5, "A part.", low=0, high=1, step=0.05)
    stepless: float = setting(0.25, "A part.", low=0, high=3)
    decades: float = setting(0.1, "Of six decades.", low=0.001, high=1000)
    rate: float = setting(0.005, "Not from a round number.", low=0.0001, high=0.5, step=0.001)
    open: float = setting(1.5, "Unbounded.", label="The open one")
    mode: str = setting("a", "A choice.", choices=("a", "b"))
    text: str = setting("x", "Text.")


def another(cls: type, field: dataclasses.Field):
    """A legal value that is not the default."""
    kind, meta = setting_type(cls, field.name), field.metadata
    if kind is bool:
        return not field.default
    if meta["choices"]:
        return next(choice for choice in meta["choices"] if choice != field.default)
    if kind is str:
        return field.default + "1"  # text, and where a list of numbers is typed one too
    return next(
        value
        for value in (meta["low"], meta["high"], field.default + 1)
        if value is not None and value != field.default
    )


def shown(controls, updates=None):
    """The data an event would carry: each component's value, after updates."""
    return shown_after({controls.method, *controls.fields}, updates or {})


@pytest.mark.parametrize(("table", "key"), METHODS)
def test_defaults_say_nothing_and_every_setting_comes_back(table, key):
    with gr.Blocks():
        controls = build_method_controls(table, "t")
    assert controls.choice(shown(controls, controls.updates(key))) == {"key": key}
    cls = table[key].settings
    values = {field.name: another(cls, field) for field in dataclasses.fields(cls)}
    choice = {"key": key, **values}
    back = controls.choice(shown(controls, controls.updates(choice)))
    assert back == choice
    assert parse_settings(cls, {name: value for name, value in back.items() if name != "key"}) == cls(**values)


def test_each_kind_of_setting_survives_the_page():
    with gr.Blocks():
        panel = build_single_panel(EveryKind, "t")
    values = {field.name: another(EveryKind, field) for field in dataclasses.fields(EveryKind)}
    assert panel.read({panel.component: json.loads(json.dumps(panel.show(values)[panel.component]))}) == values
    assert parse_settings(EveryKind, values) == EveryKind(**values)
    assert panel.show({"count": 3, "flag": True, "gone": 1}) == {panel.component: {}}


def test_each_kind_of_setting_is_described_for_the_script():
    described = {one.pop("name"): one for one in describe_settings(EveryKind)}
    kinds = {name: (one["type"], one.get("slides"), one.get("step")) for name, one in described.items()}
    assert kinds == {
        "flag": ("check", None, None),
        "count": ("number", True, 1),
        "free": ("number", False, 1),
        "share": ("number", True, 0.05),
        "stepless": ("number", True, 0.01),
        "decades": ("number", False, 1),
        "rate": ("number", True, 0.001),
        "open": ("number", False, 1),
        "mode": ("choice", None, None),
        "text": ("text", None, None),
    }
    assert [described[name]["from"] for name in ("count", "share", "rate")] == [1, 0, 0]
    assert described["open"]["label"] == "The open one" and described["count"]["whole"]
    assert described["mode"]["choices"] == [["a", "a"], ["b", "b"]] and described["text"]["help"] == "Text."


def test_a_page_describes_each_table_once_for_all_its_forms():
    with DescribingBlocks() as page:
        first, second = build_method_controls(SAMPLERS, "a", choice="ddim"), build_method_controls(SAMPLERS, "b")
        described = build_descriptions(page).value
    assert list(described["kinds"]) == ["sampler"]
    assert described["panels"] == {
        "a-sampler-settings": {"kind": "sampler", "shown": first.method.value},
        "b-sampler-settings": {"kind": "sampler", "shown": second.method.value},
    }
    assert [one["name"] for one in described["kinds"]["sampler"]["fields"]["ddim"]] == ["eta"]
    assert described["kinds"]["sampler"]["helps"]["ddim"] == SAMPLERS["ddim"].help


def test_two_tables_of_one_kind_are_refused():
    with DescribingBlocks() as page:
        build_method_controls(SAMPLERS, "a")
        build_method_controls(Table("sampler", [Method("one", "One", lambda s: s, EveryKind)]), "b")
        with pytest.raises(ValueError, match="'sampler'"):
            build_descriptions(page)


@pytest.mark.parametrize("value", [[], "eta", 1, {"ddim": [0.5]}, {"ddim": "eta"}])
def test_what_does_not_come_from_the_page_is_refused(value):
    with gr.Blocks():
        controls = build_method_controls(SAMPLERS, "t", choice="ddim")
    with pytest.raises(TypeError):
        controls.choice({controls.method: "ddim", controls.panel.component: value})


def test_a_setting_that_is_hidden_or_no_longer_offered_is_taken_out():
    table = Table("thing", [Method("one", "One", lambda s: s, EveryKind)])
    with gr.Blocks():
        controls = build_method_controls(table, "t", altered={})
    panel = controls.panel
    values = {"key": "one", "text": "gone.safetensors", "count": 5, "share": 0.7}
    altered = {"one": {"text": {"choices": [("None", ""), ("here", "here")]}, "share": {"hidden": True}}}
    assert panel.alter(altered) == {panel.altered: altered}
    taken = {panel.altered: altered, panel.component: {"one": {"count": 5}}}
    assert panel.alter(altered, controls.updates(values)) == taken
    assert panel.alter(altered, panel.hide()) == {panel.altered: altered}
    change = panel.change({panel.component: {"one": {"count": 5}}}, {"one": {"share": 0.7, "count": 3}})
    assert change == {panel.component: {"one": {"share": 0.7}}}


def test_what_does_not_fit_is_not_offered_and_not_kept():
    with gr.Blocks():
        controls = build_method_controls(SAMPLERS, "t")
    update = controls.updates({"key": "euler"}, FLOW)[controls.method]
    offered = [key for _, key in update["choices"]]
    assert "euler" not in offered
    assert update["value"] == offered[0]
    assert all(not SAMPLERS[key].fit(FLOW) for key in offered)


def test_a_choice_with_settings_at_first():
    with gr.Blocks():
        controls = build_method_controls(SAMPLERS, "t", choice={"key": "ddim", "eta": 0.5})
    assert controls.choice(shown(controls)) == {"key": "ddim", "eta": 0.5}


def test_an_unknown_method_is_refused():
    with gr.Blocks():
        controls = build_method_controls(SAMPLERS, "t")
    with pytest.raises(UnknownMethodError):
        controls.updates("hune")


def test_a_setting_at_its_default_of_another_method_is_left_alone():
    two = Table("thing", [Method("one", "One", lambda s: s, EveryKind), Method("two", "Two", lambda s: s)])
    with gr.Blocks():
        controls = build_method_controls(two, "t")
    data = shown(controls) | {controls.panel.component: {"one": {"count": 5}}, controls.method: "two"}
    assert controls.choice(data) == {"key": "two"}

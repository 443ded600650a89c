"""Settings dataclasses become components and come back unchanged."""

from __future__ import annotations

import dataclasses

import gradio as gr
import pytest

from pipelines.caches import CACHES
from pipelines.core.errors import UnknownMethodError
from pipelines.core.registry import Method, Table, parse_settings, setting, setting_type
from pipelines.core.types import Traits
from pipelines.guidance import GUIDANCE
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from studio.ui.controls import build_method_controls, build_settings_controls, read_settings_values

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
    data = {component: component.value for component in {controls.method, *controls.fields}}
    for component, update in (updates or {}).items():
        if component in data and "value" in update:
            data[component] = update["value"]
    return data


def through(component, value):
    """A value as it comes back from the page."""
    sent = component.postprocess(value)
    return component.preprocess(sent)


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
        components = build_settings_controls(EveryKind, "t")
    types = {name: type(component) for name, component in components.items()}
    assert types == {
        "flag": gr.Checkbox,
        "count": gr.Slider,
        "free": gr.Number,
        "share": gr.Slider,
        "open": gr.Number,
        "mode": gr.Dropdown,
        "text": gr.Textbox,
    }
    assert components["open"].label == "The open one"
    values = {field.name: another(EveryKind, field) for field in dataclasses.fields(EveryKind)}
    data = {component: through(component, values[name]) for name, component in components.items()}
    back = read_settings_values(components, data, EveryKind)
    assert parse_settings(EveryKind, back) == EveryKind(**values)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind)
def test_one_panel_is_open(table):
    with gr.Blocks():
        controls = build_method_controls(table, "t")
    for key in table:
        updates = controls.updates(key)
        visible = {name for name, panel in controls.panels.items() if updates[panel]["visible"]}
        assert visible == ({key} if key in controls.panels else set())


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
    data = shown(controls) | {controls.settings["one"]["count"]: 5, controls.method: "two"}
    assert controls.choice(data) == {"key": "two"}

"""Sampler family fills the cells of a comparison, held at equal evaluations."""

from __future__ import annotations

import gradio as gr
import pytest

from pipelines.core.types import Traits
from studio.page.compare.families import build_family_axis, build_family_rows, list_families
from studio.page.compare.setup import CELLS, GRID, NFE, ComparisonSetup
from tests.browser.stand_in import StandIn

DIFFUSION, FLOW = Traits("sd", "epsilon", "unet"), Traits("sd3", "flow", "transformer")


def test_only_families_with_two_fitting_samplers_are_offered():
    assert list_families(DIFFUSION)[0] == ("Choose a family", "")
    names = {name: label for label, name in list_families(DIFFUSION)}
    assert names["DPM-Solver++"] == "All DPM-Solver++ (4)" and "third order" not in names and "flow" not in names
    assert "flow" in {name: label for label, name in list_families(FLOW)}
    assert [row["sampler"] for row in build_family_rows("first order", DIFFUSION)] == ["dpmpp_1", "ddim", "euler"]
    assert [row["sampler"] for row in build_family_rows("first order", FLOW)] == ["dpmpp_1", "ddim", "flow_euler"]


@pytest.fixture
def setup(tmp_path):
    with gr.Blocks():
        setup = ComparisonSetup(StandIn(tmp_path), "t")
        setup.form.prompt("a fox")
        setup.presets(), setup.differences(), setup.shared(), setup.wire()
    return setup


def test_choosing_a_family_fills_the_cells_at_equal_evaluations(setup):
    data = {component: component.value for component in setup.inputs} | {setup.family: "DPM-Solver++"}
    updates = setup._fill_family(data)
    assert updates[setup.equal] == NFE and updates[setup.mode] == CELLS and updates[setup.family] == ""
    assert updates[setup.cells.count] == 4
    chosen = [updates[fields["sampler"]]["value"] for fields in setup.cells.fields[:4]]
    assert chosen == ["dpmpp_2m", "dpmpp_2s", "dpmpp_1", "dpmpp_3m"]


def test_a_family_larger_than_the_cells_becomes_the_columns_of_a_grid(setup, monkeypatch):
    monkeypatch.setattr("studio.page.compare.families.FEW", 3)
    data = {component: component.value for component in setup.inputs} | {setup.family: "DPM-Solver++"}
    updates = setup._fill_family(data)
    assert updates[setup.mode] == GRID
    field, values = setup.axes.parts["x"]
    assert (updates[field], updates[values]["value"]) == ("sampler", "all DPM-Solver++")
    assert setup.axes.values(build_family_axis("DPM-Solver++")) == {
        "x": {"field": "sampler", "values": "all DPM-Solver++"}
    }


def test_models_on_an_axis_draw_at_their_own_sizes_unless_one_is_chosen(setup):
    (field, values), width = setup.axes.parts["x"], setup.form.fields["width"]
    data = {component: component.value for component in setup.inputs}
    data |= {setup.mode: GRID, field: "model", values: "emoji, emoji-128"}
    assert not {"width", "height"} & setup.values(setup.draft(data))["base"].keys()
    assert setup.values(setup.draft(data | {width: 96}))["base"]["width"] == 96
    assert setup.values(setup.draft(data | {field: "seed", values: "1-2"}))["base"]["width"] == 64

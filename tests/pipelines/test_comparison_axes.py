"""Axes of a comparison: what a person writes, and the grid of it."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.core.errors import SettingsError
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.workflows.compare.axes import Axis, apply_changes, axis_names, grid
from pipelines.workflows.compare.axis_values import parse_numbers
from tests.pipelines.comparison_requests import FLOW, SD


@pytest.mark.parametrize(
    ("text", "whole", "numbers"),
    [
        ("5-25:5", True, [5, 10, 15, 20, 25]),
        ("1-3", True, [1, 2, 3]),
        ("1, 4,8-10", True, [1, 4, 8, 9, 10]),
        ("0-1:0.25", False, [0, 0.25, 0.5, 0.75, 1]),
        ("0.1-0.3:0.1", False, [0.1, 0.2, 0.3]),
        ("25-5:10", True, [25, 15, 5]),
        ("-1 - 1", True, [-1, 0, 1]),
        ("7", True, [7]),
        ("1-2:0.7", False, [1, 1.7]),
        ("", True, []),
    ],
)
def test_numbers_as_people_write_them(text, whole, numbers):
    assert parse_numbers(text, whole, 36) == numbers


@pytest.mark.parametrize(
    "text", ["a", "1-", "1-5:0", "1.5", "1..2", "0-1e9", "1-99999999999999999999", "nan", "--5", "1-5:-1"]
)
def test_other_numbers_are_refused(text):
    with pytest.raises(SettingsError):
        parse_numbers(text, True, 36)


@pytest.mark.parametrize(
    ("field", "given", "values"),
    [
        ("sampler", "Heun, dpmpp_2m", ("heun", "dpmpp_2m")),
        ("schedule", "all", tuple(one.key for one in SCHEDULES.fitting(SD))),
        ("prompt", "a fox, red | a cat\nthe sea", ("a fox, red", "a cat", "the sea")),
        ("negative_prompt", "|blue", ("", "blue")),
        ("sampler.corrector", "yes, no", (True, False)),
        ("sampler.order", "1-3", (1, 2, 3)),
        ("sampler.variant", "bh1, bh2", ("bh1", "bh2")),
        ("steps", ["4-8:2", 20], (4, 6, 8, 20)),
        ("seed", "1, 1, 2", (1, 2)),
        ("lora.ink", "0-1:0.5", (0.0, 0.5, 1.0)),
        ("size", "64x64, 96", ("64x64", "96")),
        ("model", ["tiny", "other"], ("tiny", "other")),
        ("guidance_scale", 3, (3,)),
    ],
)
def test_values_of_an_axis(field, given, values):
    assert Axis.parse({"field": field, "values": given}, 36, SD).values == values


def test_all_samplers_are_those_that_fit():
    assert Axis.parse({"field": "sampler", "values": "all"}, 36, FLOW).values == tuple(
        one.key for one in SAMPLERS.fitting(FLOW)
    )


def test_every_setting_of_every_method_can_be_an_axis():
    names = axis_names(["ink"])
    assert {
        "sampler.eta",
        "sampler.order",
        "schedule.rho",
        "guidance.guidance_rescale",
        "lora.ink",
        "size",
    } <= names.keys()
    settings = {
        f"sampler.{field.name}" for method in SAMPLERS.values() for field in dataclasses.fields(method.settings)
    }
    assert settings <= names.keys()


def test_a_grid_is_read_row_by_row():
    axes = [Axis("num_inference_steps", (4, 8)), Axis("seed", (1, 2, 3))]
    assert grid(axes) == [{"num_inference_steps": steps, "seed": seed} for seed in (1, 2, 3) for steps in (4, 8)]
    assert grid(axes[:1]) == [{"num_inference_steps": 4}, {"num_inference_steps": 8}]


def test_changes_of_a_request():
    base = {
        "sampler": "ddim",
        "guidance": {"key": "cfg", "guidance_rescale": 0.5},
        "loras": [{"name": "ink", "weight": 1.0}],
    }
    plain = apply_changes(
        base, {"sampler.eta": 1.0, "guidance_scale": 7.0, "size": "64 x 32", "lora.ink": 0.2, "lora.oil": 0.3}
    )
    assert plain["sampler"] == {"key": "ddim", "eta": 1.0}
    assert plain["guidance"] == {"key": "cfg", "guidance_rescale": 0.5, "guidance_scale": 7.0}
    assert (plain["width"], plain["height"]) == (64, 32)
    assert plain["loras"] == [{"name": "ink", "weight": 0.2}, {"name": "oil", "weight": 0.3}]
    assert apply_changes(base, {"sampler.order": 1, "sampler": "unipc"})["sampler"] == {"key": "unipc", "order": 1}
    assert base["loras"] == [{"name": "ink", "weight": 1.0}]

"""Comparing: what is read, which cells there are and in what order, and that sharing a batch changes no picture."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipelines.core.errors import MethodFitError, SettingsError, UnknownMethodError
from pipelines.core.loop import denoise, denoise_together
from pipelines.core.types import Choice, Request, Traits
from pipelines.families import family_of
from pipelines.requests.limits import Limits, check_fit, check_request
from pipelines.requests.reference import ReferenceCache, likeness, reference_of
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned import LearnedSchedules
from pipelines.schedules.learned_file import LearnedSchedule, write_learned
from pipelines.workflows.compare.axes import Axis, axis_names, changed, grid, spread
from pipelines.workflows.compare.labels import labels
from pipelines.workflows.compare.request import ComparisonRequest, by_model, equal_steps, evaluations, waves
from tests.pipelines.tiny_models import tiny_sd

SD, FLOW, EMBEDDED = (
    Traits("sd", "epsilon", "unet"),
    Traits("sd3", "flow", "transformer"),
    Traits("flux", "flow", "transformer", "embedded"),
)
LIMITS = Limits()
BASE = {"model": "tiny", "prompt": "a red fox", "seed": 5, "num_inference_steps": 10}


def read(values):
    request = Request.parse(values)
    check_request(request, LIMITS)
    check_fit(request, SD)
    return request


def parse(**values):
    return ComparisonRequest.parse({"base": BASE, **values}, read, LIMITS, lambda model: SD)


# What is read.


@pytest.mark.parametrize(
    "values",
    [
        {"cells": [{"sampler": "heun"}, {"sampler": {"key": "ddim", "eta": 0.5}, "num_inference_steps": 4}]},
        {
            "x": {"field": "num_inference_steps", "values": "4, 10-30:10"},
            "y": {"field": "guidance.guidance_scale", "values": [1, 4.5]},
        },
        {"cells": [{"size": "64x32"}, {}], "equal": "nfe", "reference": False, "reference_steps": 50},
    ],
)
def test_what_is_written_is_read_back_the_same(values):
    comparison = parse(**values)
    again = ComparisonRequest.parse(comparison.to_json(), read, LIMITS)
    assert again == comparison
    assert [cell.request for cell in again.cells] == [cell.request for cell in comparison.cells]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cells": [{}]}, "has 1 cell. Choose 2 to 8"),
        ({"cells": [{}] * 9}, "has 9 cells"),
        ({"cells": [{}, {"sampler": "hune"}]}, r"Cell 2 \(sampler hune\): Unknown sampler"),
        ({"cells": [{}, {"num_inference_steps": 10**6}]}, "Cell 2 .*1000000"),
        ({"cells": [{}, {"batch_size": 4}]}, "Cell 2 .*one picture a cell"),
        ({"cells": [{}, {"color": "red"}]}, "Cell 2 .*Unknown field of a comparison 'color'"),
        ({"cells": [{}, {"steps": 4}], "equal": "nfe"}, "Cell 2 .*equal evaluations decide"),
        ({"cells": [{}, {"sampler.eta": 1}]}, "Cell 2 .*eta"),
        ({"cells": "all"}, "a list of objects"),
        ({"x": {"field": "steps", "values": "1-40"}}, "makes 40 values"),
        (
            {"x": {"field": "steps", "values": "1-9"}, "y": {"field": "seed", "values": "1-9"}},
            "has 81 cells. Choose 1 to 36",
        ),
        ({"x": {"field": "steps", "values": " "}}, "has no values"),
        (
            {"x": {"field": "steps", "values": "4"}, "y": {"field": "num_inference_steps", "values": "5"}},
            "Both axes are Steps",
        ),
        ({"y": {"field": "steps", "values": "4"}}, "Only the rows"),
        ({"x": {"field": "steps", "values": "4"}, "cells": [{}, {}]}, "one or the other"),
        ({"x": {"field": "__class__", "values": "4"}}, "Unknown field of a comparison"),
        ({"cells": [{}, {}], "equal": "time"}, "steps, nfe"),
        ({"cells": [{}, {}], "reference_steps": float("nan")}, "whole number from 2 to 200"),
        ({"cells": [{}, {}], "reference": "yes"}, "true or false"),
        ({"cells": [{}, {}], "color": 1}, "Unknown setting of a comparison"),
        ({"base": {**BASE, "batch_size": 2}, "cells": [{}, {}]}, "batch size is 2"),
        ({"base": [], "cells": [{}, {}]}, "an object of settings"),
    ],
)
def test_what_cannot_be_says_so(values, words):
    with pytest.raises(SettingsError, match=words):
        parse(**values)


def test_a_sampler_that_does_not_fit_is_found_before_anything_runs_and_its_cell_is_named():
    with pytest.raises(MethodFitError, match=r"Cell 2 \(sampler flow_euler\): Flow Euler does not fit"):
        parse(cells=[{}, {"sampler": "flow_euler"}])


# Axes.


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
    assert spread(text, whole, 36) == numbers


@pytest.mark.parametrize(
    "text", ["a", "1-", "1-5:0", "1.5", "1..2", "0-1e9", "1-99999999999999999999", "nan", "--5", "1-5:-1"]
)
def test_other_numbers_are_refused(text):
    with pytest.raises(SettingsError):
        spread(text, True, 36)


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
    plain = changed(
        base, {"sampler.eta": 1.0, "guidance_scale": 7.0, "size": "64 x 32", "lora.ink": 0.2, "lora.oil": 0.3}
    )
    assert plain["sampler"] == {"key": "ddim", "eta": 1.0}
    assert plain["guidance"] == {"key": "cfg", "guidance_rescale": 0.5, "guidance_scale": 7.0}
    assert (plain["width"], plain["height"]) == (64, 32)
    assert plain["loras"] == [{"name": "ink", "weight": 0.2}, {"name": "oil", "weight": 0.3}]
    assert changed(base, {"sampler.order": 1, "sampler": "unipc"})["sampler"] == {"key": "unipc", "order": 1}
    assert base["loras"] == [{"name": "ink", "weight": 1.0}]


# The order of work.


def test_the_costly_axis_is_outermost_whichever_way_the_grid_lies():
    for axes in (
        [Axis("model", ("a", "b")), Axis("num_inference_steps", (4, 8))],
        [Axis("num_inference_steps", (4, 8)), Axis("model", ("a", "b"))],
    ):
        requests = [Request.parse(changed({"prompt": "x"}, cell)) for cell in grid(axes)]
        order = by_model(requests)
        assert [model for model, _ in order] == ["a", "b"]
        assert sorted(index for _, sets in order for indices in sets for index in indices) == [0, 1, 2, 3]


def test_within_a_model_loras_then_sizes_then_prompts_stay_together():
    cells = [
        {"prompt": p, "width": w, "height": w, "loras": ({"name": "ink", "weight": s},), "num_inference_steps": n}
        for n in (4, 8)
        for p in ("x", "y")
        for w in (32, 64)
        for s in (0.0, 1.0)
    ]
    requests = [Request.parse(cell) for cell in cells]
    [(_, sets)] = by_model(requests)
    assert len(sets) == 2
    for indices in sets:
        keys = [(requests[i].width, requests[i].prompt) for i in indices]
        assert keys == [(32, "x")] * 2 + [(32, "y")] * 2 + [(64, "x")] * 2 + [(64, "y")] * 2


def test_waves_keep_the_order_and_the_cap_on_pixels():
    requests = {i: Request(width=10, height=10) for i in range(7)}
    assert waves(range(7), requests, 300) == [[0, 1, 2], [3, 4, 5], [6]]
    assert waves(range(3), requests, 50) == [[0], [1], [2]]


# Equal evaluations.


@pytest.mark.parametrize(
    ("sampler", "scale", "traits", "expected"),
    [
        ("dpmpp_2m", 4.0, SD, 20),
        ("heun", 4.0, SD, 38),
        ("heun", 1.0, SD, 19),
        ("flow_heun", 4.0, EMBEDDED, 19),
        ("dpmpp_2m", 4.0, None, 20),
    ],
)
def test_evaluations(sampler, scale, traits, expected):
    request = Request(
        sampler=Choice(sampler), guidance=Choice("cfg", {"guidance_scale": scale}), num_inference_steps=10
    )
    assert evaluations(request, traits) == expected


@pytest.mark.parametrize("sampler", [method.key for method in SAMPLERS.fitting(SD)])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_equal_steps_are_the_most_within_the_budget(sampler, scale):
    request = Request(sampler=Choice(sampler), guidance=Choice("cfg", {"guidance_scale": scale}))
    for budget in (2, 20, 39, 40):
        fitted = equal_steps(request, SD, budget, 200)
        assert evaluations(fitted, SD) <= budget
        assert evaluations(fitted.replace(num_inference_steps=fitted.num_inference_steps + 1), SD) > budget


def test_a_fitted_solver_with_single_ends_has_a_step_more_at_equal_evaluations(tmp_path):
    known = LearnedSchedules((tmp_path,))
    rows = ((1.0, 0.1), (1.0, *[0.1] * 3), (1.0, *[0.1] * 4))
    write_learned(
        LearnedSchedule(
            "bespoke",
            "emoji",
            "x",
            Choice("dpmpp_2m"),
            Choice("cfg"),
            3,
            2,
            (999.0, 600.0, 300.0),
            (999.0, 600.0, 300.0),
            {"uniform": 0.4, "fitted": 0.2},
            (),
            {},
            rows,
            ("negative", "positive"),
            (0, 2),
        ),
        tmp_path,
    )
    request = Request(sampler=Choice("dpmpp_2m"), schedule=Choice("learned"))
    assert [evaluations(request.replace(num_inference_steps=steps), SD, known) for steps in (2, 3, 4)] == [4, 4, 8]
    assert [equal_steps(request, SD, budget, 50, known).num_inference_steps for budget in (2, 4, 6)] == [1, 3, 3]
    assert equal_steps(request.replace(schedule=Choice("uniform")), SD, 4, 50, known).num_inference_steps == 2


def test_equal_steps_stay_within_the_cap_and_above_zero():
    assert equal_steps(Request(), SD, 10**6, 50).num_inference_steps == 50
    assert equal_steps(Request(), SD, 1, 50).num_inference_steps == 1


# The reference.


def test_cells_that_differ_in_the_way_only_share_a_reference():
    one = Request(prompt="x", sampler=Choice("heun"), num_inference_steps=4)
    other = one.replace(sampler=Choice("ddim", {"eta": 1.0}), schedule=Choice("karras"), num_inference_steps=9)
    assert reference_of(one, False, 100) == reference_of(other, False, 100)
    for change in (
        {"prompt": "y"},
        {"seed": 1},
        {"width": 32},
        {"guidance": Choice("cfg", {"guidance_scale": 2.0})},
        {"model": "b"},
    ):
        assert reference_of(one.replace(**change), False, 100) != reference_of(one, False, 100)


@pytest.mark.parametrize(("traits", "flow"), [(SD, False), (FLOW, True)])
def test_the_reference_fits_its_model(traits, flow):
    check_fit(reference_of(Request(prompt="x"), flow, 100), traits)


def test_references_are_kept_by_bytes_the_least_recently_used_go_first():
    cache, picture = ReferenceCache(max_bytes=300), np.zeros((10, 10, 1), np.uint8)
    requests = [Request(seed=seed) for seed in range(4)]
    for request in requests[:3]:
        cache.put(request, picture)
    cache.get(requests[0])
    cache.put(requests[3], picture)
    assert [cache.get(request) is not None for request in requests] == [True, False, True, True]


def test_likeness_of_a_picture_smaller_than_the_window():
    tiny = np.zeros((8, 8, 3), np.uint8)
    assert likeness(tiny, tiny + 255) == {"psnr": 0.0, "ssim": None}


# Labels.


def test_labels_say_what_differs_and_nothing_else():
    base = Request(prompt="x")
    assert labels([base, base.replace(sampler=Choice("heun"))]) == ["DPM-Solver++(2M)", "Heun"]
    scales = [
        base.replace(guidance=Choice("cfg", {"guidance_scale": scale}), num_inference_steps=steps)
        for scale, steps in ((1.0, 1), (4.5, 8))
    ]
    assert labels(scales) == ["guidance scale 1 · 1 step", "guidance scale 4.5 · 8 steps"]
    assert labels([base, base]) == ["Cell (1)", "Cell (2)"]
    assert len(labels([base.replace(prompt="long " * 500), base])[0]) < 60


def test_unknown_names_list_what_there_is():
    with pytest.raises(UnknownMethodError, match=r"num_inference_steps.*lora\.<name>"):
        changed({}, {"nothing": 1})


# Running together.


@pytest.fixture(scope="module")
def family():
    pipe = tiny_sd()
    return family_of(pipe.components)


def finals(requests, family):
    runs = [build_run(resolve(request, family), family) for request in requests]
    last = {}
    for index, step in denoise_together(runs):
        last[index] = step
    return [last[index] for index in range(len(requests))]


VARIED = [
    Request(
        prompt=prompt,
        seed=3,
        sampler=Choice(sampler),
        num_inference_steps=steps,
        guidance=Choice("cfg", {"guidance_scale": scale}),
        width=size,
        height=size,
    )
    for prompt, sampler, steps, scale, size in (
        ("a red fox", "dpmpp_2m", 4, 4.0, 32),
        ("a red fox", "heun", 3, 4.0, 32),
        ("a red fox", "euler_a", 5, 4.0, 32),
        ("a red fox", "ddim", 4, 1.0, 32),
        ("a blue sea " * 12, "unipc", 4, 4.0, 32),
        ("a red fox", "dpmpp_2s", 3, 7.0, 64),
    )
]


def test_comparing_equals_generating_each_cell_alone(family):
    for request, together in zip(VARIED, finals(VARIED, family), strict=True):
        *_, alone = denoise(build_run(resolve(request, family), family))
        torch.testing.assert_close(together.latents, alone.latents, rtol=1e-4, atol=1e-4)
        assert together.evaluations == alone.evaluations


def test_the_order_of_the_cells_changes_no_picture(family):
    for forth, back in zip(finals(VARIED, family), reversed(finals(VARIED[::-1], family)), strict=True):
        torch.testing.assert_close(forth.latents, back.latents, rtol=1e-4, atol=1e-4)


def test_cells_of_one_shape_begin_from_the_same_noise_bit_for_bit(family):
    runs = [build_run(resolve(request, family), family) for request in VARIED[:5]]
    assert all(torch.equal(run.latents, runs[0].latents) for run in runs)

"""Comparing: what is read, which cells there are and in what order, and that sharing a batch changes no picture."""

from __future__ import annotations

import pytest
import torch

from pipelines.core.errors import MethodFitError, SettingsError, UnknownMethodError
from pipelines.core.loop import denoise, denoise_together
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.requests.limits import Limits, check_fit, check_request
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.workflows.compare.axes import Axis, apply_changes, grid
from pipelines.workflows.compare.labels import labels
from pipelines.workflows.compare.request import ComparisonRequest
from tests.pipelines.comparison_requests import SD
from tests.pipelines.tiny_models import tiny_sd

LIMITS = Limits()
BASE = {"model": "tiny", "prompt": "a red fox", "seed": 5, "num_inference_steps": 10}


def read(values):
    request = Request.parse(values)
    check_request(request, LIMITS)
    check_fit(request, SD)
    return request


def parse(**values):
    return ComparisonRequest.parse({"base": BASE, **values}, read, LIMITS, lambda model: SD)


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
        apply_changes({}, {"nothing": 1})


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


def test_search_and_replace_changes_the_words_of_both_prompts():
    axis = Axis.parse({"field": "prompt_sr", "values": "fox, cat, an owl"}, 8)
    base = {"prompt": "a fox, fox", "negative_prompt": "no fox"}
    prompts = [apply_changes(base, cell)["prompt"] for cell in grid([axis])]
    assert prompts == ["a fox, fox", "a cat, cat", "an owl, an owl"]
    assert apply_changes(base, {"prompt_sr": axis.values[1]})["negative_prompt"] == "no cat"
    assert Axis.parse(axis.to_json(), 8) == axis  # what was stored is read back
    # A prompt on the other axis is set first, and its words are replaced.
    both = {"prompt_sr": axis.values[1], "prompt": "one fox"}
    assert apply_changes(base, both)["prompt"] == "one cat"


@pytest.mark.parametrize(
    ("prompt", "words", "becomes"),
    [
        ("a fox and An fox", ("fox", "owl"), "an owl and An owl"),  # what did not agree before is left alone
        ("A fox", ("fox", "owl"), "An owl"),
        ("an owl, the owl, plan owl", ("owl", "cat"), "a cat, the cat, plan cat"),
        ("a car and an hour", ("hour", "unicorn"), "a car and a unicorn"),
        ("a fox", ("fox", "(owl:1.2)"), "an (owl:1.2)"),
        ("a fox", ("fox", ""), "a "),
        ("a fox", ("a fox", "owl"), "owl"),
        ("a one-legged x", ("x", "a"), "a one-legged a"),
    ],
)
def test_the_article_agrees_with_what_is_put_in(prompt, words, becomes):
    axis = Axis.parse({"field": "prompt_sr", "values": list(words)}, 8)
    assert apply_changes({"prompt": prompt}, {"prompt_sr": axis.values[1]})["prompt"] == becomes


def test_search_and_replace_says_what_it_does_not_find():
    (cell, *_) = grid([Axis.parse({"field": "prompt_sr", "values": ["dog", "cat"]}, 8)])
    with pytest.raises(SettingsError, match="does not contain 'dog'"):
        apply_changes({"prompt": "a fox"}, cell)

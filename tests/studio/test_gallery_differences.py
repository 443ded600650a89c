"""Captions in the gallery say in what results of one prompt differ."""

from __future__ import annotations

from types import SimpleNamespace

from pipelines.core.types import Request
from studio.page.gallery.differences import describe_differences


def record(id, prompt="a fox", figures=None, **values):
    request = Request(prompt=prompt).to_json() | values
    return SimpleNamespace(id=id, prompt=prompt, metadata={"request": request, "figures": figures or {}})


def test_results_of_one_prompt_say_what_differs_and_nothing_else():
    records = [record("a", seed=1), record("b", seed=2, num_inference_steps=8), record("c", "an owl", seed=3)]
    assert describe_differences(records) == {"a": "25 steps, seed 1", "b": "8 steps, seed 2"}


def test_a_method_is_said_where_it_was_used_and_an_enlarged_picture_is_told_from_its_source():
    larger = record("b", figures={"upscale": {"factor": 2.0}})
    passed = record("c", second_pass={"key": "latent", "factor": 2.0})
    differences = describe_differences([record("a"), larger, passed])
    assert differences == {"a": "", "b": "upscaled 2 times", "c": "Latent upscale"}


def test_metadata_of_other_programs_breaks_nothing():
    strange = SimpleNamespace(id="x", prompt="a fox", metadata={"request": [1], "figures": 3})
    odd = record("b", model="gone", sampler={"key": ["x"]})
    assert describe_differences([strange, odd, record("a", seed=4)], {"emoji": "Emoji 64"}) == {
        "x": "",
        "b": "gone, ['x']",
        "a": "Emoji 64, DPM-Solver++(2M)",
    }

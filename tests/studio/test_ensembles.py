"""Several models in one run: planned and loaded together, refused before the queue, stored and restored."""

from __future__ import annotations

import gradio as gr
import numpy as np
import pytest

from pipelines.core.errors import StepwiseError, UnknownMethodError
from pipelines.models.extras import Extras
from pipelines.models.load_request import LoadRequest
from studio.backend import Studio, StudioSettings
from studio.ui.form import RequestForm
from studio.ui.restore import read_settings
from tests.studio.waiting import ended

REQUEST = {"model": "emoji-128", "prompt": "a fox on a blue background", "num_inference_steps": 2, "seed": 11}


def compose(**settings):
    return {"ensemble": {"key": "composition", "second": "emoji-128-flow", **settings}}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    home = tmp_path_factory.mktemp("ensembles")
    studio = Studio(StudioSettings(home / "outputs", home / "models", device="cpu"))
    yield studio
    studio.close()


def run(studio, task="text_to_image", **changes):
    view = ended(studio.submit(task, {**REQUEST, **changes}))
    assert view.status.value == "done", view.message
    return view.cells[0]


def test_two_models_draw_one_picture_and_a_weight_of_zero_is_the_plain_run(studio):
    plain, both = run(studio), run(studio, **compose())
    assert not np.array_equal(plain.images, both.images)
    assert both.figures["evaluations"] == 2 * plain.figures["evaluations"]
    np.testing.assert_array_equal(run(studio, **compose(second_weight=0.0)).images, plain.images)
    half = run(studio, **compose(begin=0.5))
    assert half.figures["evaluations"] == 1.5 * plain.figures["evaluations"]
    restored = read_settings(studio, str(studio.store.get(both.results[0]).path), "emoji-128")
    assert restored.values["ensemble"] == compose()["ensemble"]
    elsewhere = read_settings(studio, str(studio.store.get(both.results[0]).path), "emoji")
    assert elsewhere.values["ensemble"] == {"key": "none"}
    assert any("another latent space" in note for note in elsewhere.notes)


def test_a_comparison_a_search_and_a_second_pass_compose_too(studio):
    cells = [{"ensemble.second_weight": 0.0}, {"ensemble.second_weight": 1.0}]
    values = {"base": {**REQUEST, **compose()}, "cells": cells, "equal": "steps", "reference": False}
    view = ended(studio.submit("compare", values))
    assert view.status.value == "done", view.message
    np.testing.assert_array_equal(view.cells[0].images, run(studio).images)
    np.testing.assert_array_equal(view.cells[1].images, run(studio, **compose()).images)
    found = run(studio, **compose(), search={"key": "random", "budget": 16}, reward="sharpness")
    assert found.figures["evaluations"] == 16
    second = {"second_pass": {"key": "latent", "factor": 1.5, "strength": 0.6}}
    assert not np.array_equal(run(studio, **compose(), **second).images, run(studio, **second).images)


def test_memory_is_asked_for_once_for_all_models_and_nothing_stays_on_the_first(studio):
    loader = studio.loader
    with loader.model("emoji-128", request=LoadRequest(Extras(companions=("emoji-128-flow",)))) as family:
        held = {row.key for row in loader.cache.snapshot() if row.pins}
        names = sorted(key.part.rpartition(".")[2].split()[0] for key in held)
        assert "SD3Transformer2DModel" in names and "UNet2DConditionModel" in names
        assert names.count("AutoencoderKL") == 1
        assert family.companions["emoji-128-flow"].vae is family.vae and family.ensemble is not None
    assert family.companions == {} and family.ensemble is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (compose(second="emoji"), "different latent spaces"),
        (compose(second="emoji-128"), "named twice"),
        (compose(third="emoji-128-flow"), "named twice"),
        (compose(second=""), "No second model"),
        (compose(second="sana"), "own loop"),
        (compose(second="sdxl"), "different latent spaces"),
        (compose(begin=0.5, end=0.5), "leave later"),
        ({**compose(), "cache": "deepcache"}, "A cache knows one network"),
        ({**compose(), "made_like": "comfyui"}, "Stepwise's own rules"),
        (
            {**compose(), "second_pass": {"key": "demofusion", "factor": 2}},
            "one|alone|parts",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused_before_the_queue(studio, changes, words):
    with pytest.raises(StepwiseError, match=words):
        studio.submit("text_to_image", {**REQUEST, **changes})


def test_an_unknown_model_and_tasks_that_run_one_say_so(studio):
    with pytest.raises(UnknownMethodError, match="gone"):
        studio.submit("text_to_image", {**REQUEST, **compose(second="gone")})
    for task, extra in {"quantize": {"variants": ["int8"]}, "convergence": {}, "animate": {"frames": 2}}.items():
        with pytest.raises(StepwiseError, match="runs one model"):
            studio.submit(task, {"base": {**REQUEST, **compose()}, **extra})


def test_sizes_are_those_that_every_model_draws(studio):
    odd = ended(studio.submit("text_to_image", {**REQUEST, **compose(), "width": 136, "height": 112}))
    assert odd.status.value != "done" and "These models make multiples of 16: choose 128 or 144" in odd.message
    assert run(studio, **compose(second_weight=0.0), width=136, height=112).images.shape[1:3] == (112, 136)
    second = {"second_pass": {"key": "latent", "factor": 1.3, "strength": 0.6}}
    assert all(side % 16 == 0 for side in run(studio, **compose(), **second).images.shape[1:3])


def test_the_form_offers_what_fits_and_follows_the_model(studio):
    with gr.Blocks() as page:
        form = RequestForm(studio, "e", first="emoji-128")
        form.prompt("a fox"), form.model(), form.words(), form.steps(), form.seed(), form.size(), form.variation()
        form.loras(), form.ensemble(), form.wire()
    controls = form.methods["ensemble"]
    panel, keys = controls.panel, lambda altered: [key for _, key in altered["composition"]["second"]["choices"]]
    assert keys(panel.altered.value) == ["", "emoji-128-flow"]
    data = {component: component.value for component in form.inputs}
    assert form.draft(data)["ensemble"] == {"key": "none"}
    typed = {controls.method: "composition", panel.component: {"composition": {"second": "emoji-128-flow"}}}
    assert form.draft({**data, **typed})["ensemble"] == compose()["ensemble"]
    shown = form.updates({"model": "emoji-128", **compose()})
    assert panel.read(shown, "composition")["second"] == "emoji-128-flow"
    width = form.fields["width"]
    linked = [form.updates({**one, "width": 128}, "emoji-128")[width]["step"] for one in (compose(), {})]
    assert linked == [16, 8]
    (fit,) = [event.fn for event in page.fns.values() if (panel.component._id, "select") in event.targets]
    assert [fit({**data, **typed, width: side})[width]["value"] for side in (136, 120, 128)] == [128, 128, 128]
    moved = form.updates({"model": "emoji", **compose()})
    assert "second" not in panel.read(moved, "composition") and keys(moved[panel.altered]) == [""]


def test_directions_are_computed_kept_and_moved_along(studio):
    base = {"model": "emoji", "prompt": "a fox", "num_inference_steps": 2, "seed": 3}
    look = {"key": "directions", "runs": 4, "directions": 2, "name": "foxes"}
    view = ended(studio.submit("inspect", {"base": base, "inspection": look}))
    assert view.status.value == "done", view.message
    assert view.cells[0].images.shape[0] == 5 and studio.directions("emoji") == ["foxes"]
    assert studio.directions("emoji-128") == []
    with pytest.raises(StepwiseError, match="already"):
        studio.submit("inspect", {"base": base, "inspection": look})
    with pytest.raises(StepwiseError, match="small letters"):
        studio.submit("inspect", {"base": base, "inspection": {**look, "name": "Foxes!"}})
    moved = {"key": "directions", "file": "foxes", "first": 2.0}
    plain = run(studio, **base)
    np.testing.assert_array_equal(run(studio, **base, sliders={**moved, "first": 0.0}).images, plain.images)
    cell = run(studio, **base, sliders=moved)
    assert not np.array_equal(cell.images, plain.images)
    path = str(studio.store.get(cell.results[0]).path)
    assert read_settings(studio, path, "emoji").values["sliders"] == moved
    gone = read_settings(studio, path, "emoji-128")
    assert gone.values["sliders"] == {"key": "none"} and any("sliders were left out" in note for note in gone.notes)
    for changes, words in (
        ({"model": "emoji-128"}, "of the model 'emoji'"),
        ({"width": 96}, "64 × 64 pixels"),
        ({"sliders": {**moved, "third": 1.0}}, "third is moved"),
        ({"sliders": {**moved, "file": ""}}, "No directions are chosen"),
        ({"sliders": {**moved, "file": "gone"}}, "gone"),
        ({"sliders": {**moved, "begin": 0.5, "end": 0.5}}, "End them later"),
        ({"cache": "deepcache"}, "a cache leaves out"),
        ({"second_pass": {"key": "latent", "factor": 2}}, "one size"),
    ):
        with pytest.raises(StepwiseError, match=words):
            studio.submit("text_to_image", {**base, "sliders": moved, **changes})
    with pytest.raises(StepwiseError, match="no sliders"):
        studio.submit("animate", {"base": {**base, "sliders": moved}, "frames": 2})
    with pytest.raises(StepwiseError, match="no UNet"):
        studio.submit("inspect", {"base": {**base, "model": "emoji-128-flow"}, "inspection": {**look, "name": "x"}})

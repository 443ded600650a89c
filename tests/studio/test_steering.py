"""A picture that steers a run: kept, refused before the queue, run, stored with the picture and restored."""

from __future__ import annotations

import base64
import io
import shutil

import gradio as gr
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from PIL import Image

from pipelines.core.errors import PictureError, SettingsError, StepwiseError, UnknownMethodError
from pipelines.models.catalog import SHIPPED
from studio.backend import Studio, StudioSettings
from studio.tasks.finished_runs import FROM_CACHE
from studio.ui.form import RequestForm
from studio.ui.restore import read_settings
from tests.studio.waiting import ended

REQUEST = {"prompt": "a fox on a blue background", "num_inference_steps": 2, "seed": 11}
PICTURE = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encode(pixels=PICTURE) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def control(**settings):
    return {"control": {"key": "controlnet", "model": "lines", "picture": encode(), **settings}}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    home = tmp_path_factory.mktemp("steering")
    unet = UNet2DConditionModel.from_pretrained(SHIPPED / "unet")
    torch.manual_seed(3)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8))
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(layer.weight, std=0.1)
    net.save_pretrained(home / "models" / "controlnet" / "Lines")
    shapes = T2IAdapter(channels=[64, 128], num_res_blocks=1, downscale_factor=4)
    for block in shapes.adapter.body:
        torch.nn.init.normal_(block.resnets[0].block2.weight, std=0.1)
    shapes.save_pretrained(home / "models" / "t2i_adapter" / "Shapes")
    studio = Studio(StudioSettings(home / "outputs", home / "models", device="cpu"))
    yield studio
    studio.close()


def adapter(**settings):
    return {"t2i_adapter": {"key": "t2i_adapter", "model": "shapes", "picture": encode(), **settings}}


def run(studio, **changes):
    view = ended(studio.submit("text_to_image", {**REQUEST, **changes}))
    assert view.status.value == "done", view.message
    return view.cells[0]


def test_a_picture_steers_and_an_equal_request_comes_from_the_cache(studio):
    plain, steered = run(studio), run(studio, **control())
    assert not np.array_equal(plain.images, steered.images)
    assert steered.figures["evaluations"] == plain.figures["evaluations"]
    again = run(studio, **control(picture=base64.b64encode(encode()).decode()))
    assert again.figures[FROM_CACHE] and np.array_equal(again.images, steered.images)
    other = run(studio, **control(picture=encode(255 - PICTURE)))
    assert FROM_CACHE not in other.figures and not np.array_equal(other.images, steered.images)
    np.testing.assert_array_equal(run(studio, **control(strength=0.0)).images, plain.images)


def test_t2i_adapters_steer_alone_in_pairs_and_beside_a_controlnet(studio):
    plain, one = run(studio), run(studio, **adapter())
    pair = run(studio, **adapter(second="shapes", second_picture=encode(255 - PICTURE)))
    beside = run(studio, **adapter(), **control())
    pictures = [plain, one, pair, beside, run(studio, **control())]
    assert len({cell.images.tobytes() for cell in pictures}) == 5
    assert {cell.figures["evaluations"] for cell in (one, pair, beside)} == {4}  # those of the network alone
    base = studio.store.get(pair.results[0])
    restored = read_settings(studio, str(base.path), "emoji").values["t2i_adapter"]
    assert restored["second"] == "shapes" and studio.given.has(restored["second_picture"])
    np.testing.assert_array_equal(run(studio, **adapter(strength=0.0)).images, plain.images)


def test_a_second_pass_is_steered_at_its_own_size(studio):
    second = {"second_pass": {"key": "latent", "factor": 1.5, "strength": 0.6}}
    steered, plain = run(studio, **control(), **second), run(studio, **second)
    assert steered.images.shape == plain.images.shape == (1, 96, 96, 3)
    assert not np.array_equal(steered.images, plain.images)


def test_comparing_steers_each_cell_by_its_own_settings(studio):
    values = {"base": {**REQUEST, **control()}, "cells": [{"control.strength": 0.0}, {"control.strength": 1.5}]}
    view = ended(studio.submit("compare", {**values, "equal": "steps", "reference": False}))
    assert view.status.value == "done", view.message
    np.testing.assert_array_equal(view.cells[0].images, run(studio).images)
    assert not np.array_equal(view.cells[0].images, view.cells[1].images)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"model": "gone"}, UnknownMethodError, "lines"),
        ({"model": ""}, SettingsError, "No ControlNet is chosen"),
        ({"picture": ""}, SettingsError, "has no picture"),
        ({"picture": "0" * 64}, PictureError, "not here any more"),
        ({"picture": "../../etc/passwd"}, PictureError, "base64"),
        ({"picture": b"no picture"}, PictureError, "picture"),
    ],
)
def test_what_is_missing_or_wrong_is_refused_before_the_queue(studio, settings, error, words):
    with pytest.raises(error, match=words):
        studio.submit("text_to_image", {**REQUEST, **control(**settings)})


def test_an_edit_is_steered_by_its_own_source_where_no_other_picture_is_given(studio):
    values = {"picture": encode(), "edit": {"key": "image_to_image", "strength": 0.9}, "base": REQUEST}

    def edit(**settings):
        view = ended(studio.submit("edit", {**values, "base": {**REQUEST, **control(**settings)}}))
        assert view.status.value == "done", view.message
        return view.cells[0]

    own, given = edit(picture=""), edit(picture=encode())
    np.testing.assert_array_equal(own.images, given.images)
    assert not np.array_equal(own.images, edit(strength=0.0).images)
    restored = read_settings(studio, str(studio.store.get(own.results[0]).path), "emoji").values
    np.testing.assert_array_equal(studio.given.read(restored["control"]["picture"]), PICTURE)


def test_a_walk_is_steered(studio):
    def walk(**changes):
        values = {"base": {**REQUEST, **changes}, "frames": 2, "keys": [{"seed": 3}], "format": "gif"}
        view = ended(studio.submit("animate", values))
        assert view.status.value == "done", view.message
        return view.cells[0].images

    assert not np.array_equal(walk(), walk(**control()))
    np.testing.assert_array_equal(walk(), walk(**control(strength=0.0)))


@pytest.mark.parametrize("task", ["quantize", "convergence"])
def test_tasks_that_run_none_say_so(studio, task):
    extra = {"quantize": {"variants": ["int8"]}}.get(task, {})
    with pytest.raises(StepwiseError, match="ControlNet"):
        studio.submit(task, {"base": {**REQUEST, **control()}, **extra})


def test_the_stored_picture_gives_its_settings_back_as_long_as_its_picture_is_here(studio):
    (result,) = run(studio, **control(map="edges", end=0.5)).results
    path = str(studio.store.get(result).path)
    restored = read_settings(studio, path, "emoji")
    chosen = restored.values["control"]
    assert (chosen["model"], chosen["map"], chosen["end"]) == ("lines", "edges", 0.5)
    np.testing.assert_array_equal(studio.given.read(chosen["picture"]), PICTURE)
    folder = studio.store.folder / "given"
    shutil.move(folder, folder.with_name("aside"))
    try:
        gone = read_settings(studio, path, "emoji")
        assert gone.values["control"] == {"key": "none"}
        assert any("its picture is not here" in note for note in gone.notes)
    finally:
        shutil.move(folder.with_name("aside"), folder)
    assert any("not for this model" in note for note in read_settings(studio, path, "emoji-128-flow").notes)


def test_enlarging_a_steered_picture_needs_no_control(studio):
    cell = run(studio, **control())
    base = studio.store.get(cell.results[0]).metadata["request"]
    values = {"picture": encode(cell.images[0]), "base": base, "factor": 2, "upscaler": "lanczos"}
    assert ended(studio.submit("upscale", values)).status.value == "done"


def test_the_form_writes_the_choice_and_shows_it_again(studio, tmp_path):
    with gr.Blocks():
        form = RequestForm(studio, "s", first="emoji")
        form.prompt("a fox"), form.model(), form.words(), form.steps(), form.seed(), form.size(), form.variation()
        form.loras(), form.steering("control"), form.steering("t2i_adapter")
        form.steering("image_prompt"), form.wire()
    controls = form.steered["control"]
    assert [key for _, key in controls.model.choices] == ["", "lines"]
    data = {component: component.value for component in form.inputs}
    assert form.draft(data)["control"] == {"key": "none"}
    file = tmp_path / "picture.png"
    file.write_bytes(encode())
    name = controls._keep(str(file))
    typed = {controls.model: "lines", controls.name: name, controls.map: "edges"}
    chosen = form.draft({**data, **typed})["control"]
    assert chosen == {"key": "controlnet", "model": "lines", "picture": name, "map": "edges"}
    updates = form.updates({"control": chosen})
    assert updates[controls.name] == name and updates[controls.panel]["visible"]
    np.testing.assert_array_equal(updates[controls.picture]["value"], PICTURE)
    assert [key for _, key in form.steered["t2i_adapter"].model.choices] == ["", "shapes"]
    assert form.updates({"model": "emoji-128-flow", "control": chosen})[controls.model]["value"] == ""

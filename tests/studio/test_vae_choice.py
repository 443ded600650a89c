"""The VAE as a setting: refused before the queue, kept apart by the caches, stored, restored and honored when named."""

from __future__ import annotations

import json
import shutil
from urllib.parse import parse_qsl

import gradio as gr
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.models.catalog import SHIPPED, SHIPPED_128
from studio import infotext
from studio.backend import Studio, StudioSettings
from studio.tasks.finished_runs import FROM_CACHE
from studio.ui.deep_links import link, open_link
from studio.ui.form import RequestForm
from studio.ui.restore import read_settings
from studio.ui.untrusted_settings import accept_restored
from tests.studio.comfyui_graphs import graph, node, read
from tests.studio.waiting import ended

REQUEST = {"prompt": "a fox on a blue background", "num_inference_steps": 2, "seed": 11}
WARM = {"vae": {"key": "file", "name": "warm"}}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    home = tmp_path_factory.mktemp("vaes")
    folder = home / "models" / "vae" / "Warm"
    shutil.copytree(SHIPPED / "vae", folder)
    file = next(folder.glob("*.safetensors"))
    tensors = safetensors.torch.load_file(file)
    tensors["decoder.conv_out.bias"] += torch.tensor([0.3, 0.0, -0.3])
    safetensors.torch.save_file(tensors, file, {"format": "pt"})
    shutil.copytree(SHIPPED_128 / "vae", home / "models" / "vae" / "Other")
    studio = Studio(StudioSettings(home / "outputs", home / "models", device="cpu"))
    yield studio
    studio.close()


def run(studio, **changes):
    job = studio.submit("text_to_image", {**REQUEST, **changes})
    view = ended(job)
    assert view.status.value == "done", view.message
    return view.cells[0]


def test_a_changed_vae_costs_its_decoding_alone_and_changes_the_colors(studio):
    plain, warm = run(studio), run(studio, **WARM)
    assert warm.figures[FROM_CACHE] and warm.figures["evaluations"] == 0
    difference = warm.images[0].astype(int) - plain.images[0]
    assert difference[..., 0].mean() > 5 and difference[..., 2].mean() < -5
    np.testing.assert_array_equal(run(studio).images, plain.images)


def test_the_picture_carries_it_and_gives_it_back(studio):
    (result,) = run(studio, **WARM).results
    path = studio.store.get(result).path
    assert read_settings(studio, str(path), "emoji").values["vae"] == WARM["vae"]
    assert "VAE: warm" in Image.open(path).text["parameters"]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [("gone", UnknownMethodError, "warm"), ("other", SettingsError, "latents of 8 channels, this model's have 4")],
)
def test_one_that_is_not_there_or_does_not_fit_is_refused_before_the_queue(studio, name, error, words):
    with pytest.raises(error, match=words):
        studio.submit("text_to_image", {**REQUEST, "vae": {"key": "file", "name": name}})


@pytest.mark.parametrize("task", ["quantize", "learn"])
def test_tasks_that_use_the_models_own_say_so(studio, task):
    base = {"base": {**REQUEST, **WARM}}
    values = {**base, "variants": ["int8"]} if task == "quantize" else {"base": {**WARM, "num_inference_steps": 4}}
    with pytest.raises(SettingsError, match="model's own VAE"):
        studio.submit(task, values)


def test_comparing_decodes_each_cell_with_its_own(studio):
    values = {"base": REQUEST, "cells": [{"vae": "own"}, WARM], "equal": "steps", "reference": False}
    view = ended(studio.submit("compare", values))
    assert view.status.value == "done", view.message
    own, warm = (cell.images[0].astype(int) for cell in view.cells)
    assert (warm - own)[..., 0].mean() > 5
    assert "Of the models folder" in view.cells[1].label


GRAPH = graph(n8=node("VAEDecode", samples=["3", 0], vae=["20", 0]), n20=node("VAELoader", vae_name="sd/Warm.pt"))
TEXT = "a fox\nSteps: 20, Sampler: Euler, Seed: 5, Size: 64x64, VAE: Warm.safetensors, Version: v1.10.1"


@pytest.mark.parametrize("restored", [read(GRAPH), infotext.read_texts({"parameters": TEXT})], ids=["comfyui", "a1111"])
def test_another_programs_picture_brings_the_vae_of_its_name(studio, restored):
    assert restored.values["vae"]["key"] == "file"
    accepted = accept_restored(restored, studio, "emoji")
    assert accepted.values["vae"] == WARM["vae"] and accepted.equality == restored.equality
    missing = accept_restored(restored, studio, "emoji-128")
    assert "vae" not in missing.values and missing.equality == ""
    assert any("names the VAE" in note for note in missing.notes)


@pytest.mark.parametrize("name", ["None", "Automatic", "Baked VAE"])
def test_words_for_the_checkpoints_own_vae_choose_none(name):
    text = f"a fox\nSteps: 20, Sampler: Euler, Seed: 5, VAE: {name}, Version: v1.10.1"
    restored = infotext.read_texts({"parameters": text})
    assert "vae" not in restored.values and not any("VAE" in note for note in restored.notes)


def test_a_graph_with_the_checkpoints_own_vae_names_none():
    assert "vae" not in read(graph()).values


def test_the_form_offers_those_that_fit_and_writes_the_choice(studio):
    with gr.Blocks():
        form = RequestForm(studio, "v", first="emoji")
        form.prompt("a fox"), form.model(), form.words(), form.steps(), form.seed(), form.size(), form.variation()
        form.loras(), form.vae(), form.wire()
    field = form.fields["vae"]
    assert [key for _, key in field.choices] == ["", "warm"]
    data = {component: component.value for component in form.inputs}
    assert form.draft(data)["vae"] == {"key": "own"}
    assert form.draft({**data, field: "warm"})["vae"] == WARM["vae"]
    assert form.updates(WARM)[field]["value"] == "warm"
    assert form.updates({"model": "emoji-128", **WARM})[field]["value"] == ""


def test_a_link_carries_it(studio):
    parameters = dict(parse_qsl(link("text_to_image", {**REQUEST, **WARM})[1:]))
    opened = open_link(parameters, studio, ("text_to_image",), "emoji")
    assert opened.values["vae"] == WARM["vae"], json.dumps(opened.notes)

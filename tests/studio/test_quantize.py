"""The task "quantize" through the studio: pictures, figures, errors by step, keeping, cancel, and what is refused."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.core.errors import LoraError, MethodFitError, ModelError, SettingsError, UnknownMethodError
from pipelines.models.quantization_folder import quantized_key
from studio.jobs.job import JobStatus
from studio.models.save_quantized import find_saved_key, keep
from studio.tasks.runs.quantize import FULL
from tests.studio.page_forms import built
from tests.studio.task_examples import FOX as FOX_RUN
from tests.studio.task_examples import Example
from tests.studio.waiting import ended

EXAMPLE = Example(
    {"base": FOX_RUN, "variants": ["int8", "int4"]},
    {"variants": ["int8", "int4", "nf4", "fp8", "dynamic", "layerwise"]},
)
"""For the tests of all tasks."""


BASE = {"prompt": "a fox on a blue background", "seed": 5, "num_inference_steps": 4}


def done(studio, task="quantize", **values):
    job = studio.submit(task, values)
    view = ended(job)
    return job, view


@pytest.fixture(scope="module")
def compared(studio):
    return done(studio, base=BASE, variants=["int8", {"key": "int4", "group_size": 32}, "dynamic"])


def test_the_cells_stream_beside_full_precision_and_are_stored(studio, compared):
    _job, view = compared
    assert view.status is JobStatus.DONE, view.message
    assert [cell.label for cell in view.cells] == [FULL, "int8", "int4, group size 32", "Dynamic int8"]
    for cell in view.cells:
        assert len(cell.rows) == len(cell.frames) == 4 and cell.images.shape == (1, 64, 64, 3)
        with Image.open(studio.store.get(cell.results[0]).path) as stored:
            assert np.array_equal(np.asarray(stored), cell.images[0])
    saved = studio.store.get(view.cells[2].results[0])
    assert saved.metadata["figures"]["quantization"] == {"key": "int4", "group_size": 32, "model": "emoji"}
    assert saved.kind == "quantize"


def test_the_first_cell_is_the_picture_of_text_to_image(studio, compared):
    _, plain = done(studio, "text_to_image", **BASE)
    assert np.array_equal(plain.cells[0].images, compared[1].cells[0].images)


def test_the_figures_order_the_methods_as_they_must(compared):
    full, int8, int4, dynamic = compared[1].outcome["rows"]
    assert full["bytes"] > dynamic["bytes"] > int8["bytes"] > int4["bytes"]
    assert int8["bytes"] < 0.27 * full["bytes"] and int4["bytes"] < 0.17 * full["bytes"]
    assert int8["psnr"] > int4["psnr"] + 5 and 0.99 < int8["ssim"] < 1
    assert int8["bytes"] < int8["disk"] < 1.02 * int8["bytes"] and full["disk"] < full["bytes"]
    assert full["step_ratio"] == 1 and all(row["step_seconds"] > 0 for row in (full, int8, int4, dynamic))
    assert int8["layers"] > dynamic["layers"] > 0 and int8["worst_layer"] > int4["worst_layer"] > 15
    json.dumps(dict(compared[1].outcome), allow_nan=False)


def test_errors_by_step_and_the_heat_map(compared):
    outcome = compared[1].outcome
    for errors, other in zip(outcome["errors"], outcome["heat"], strict=True):
        assert len(errors["forced"]) == len(errors["free"]) == len(other["steps"]) == 4
        assert errors["forced"][0] == pytest.approx(errors["free"][0], abs=0.05), "both begin from the same noise"
        assert all(len(layers) == len(outcome["layers"]) for layers in other["steps"])
    int8, int4, _dynamic = outcome["errors"]
    assert all(a > b + 5 for a, b in zip(int8["forced"], int4["forced"], strict=True))
    assert int8["free"][-1] < int8["forced"][-1], "errors add up in the free run"
    convolution = outcome["layers"].index("down_blocks.0.resnets.0.conv1")
    assert outcome["heat"][2]["steps"][0][convolution] is None or outcome["heat"][2]["steps"][0][convolution] > 25
    assert {"conv_in", "conv_out"} <= {layer["name"] for layer in outcome["skipped"]}


def test_no_hook_stays(studio, compared):
    with studio.loader.model("emoji") as full:
        assert not any(layer._forward_hooks for layer in full.network.modules())


def test_keeping_makes_a_model_for_the_other_tabs(studio):
    _, view = done(studio, base=BASE, variants=["int8"], measure=False, keep=True)
    assert view.outcome["rows"][1]["kept"] and "emoji+int8" in studio.catalog
    _, made = done(studio, "text_to_image", **BASE, model="emoji+int8")
    assert np.array_equal(made.cells[0].images, view.cells[1].images)
    assert studio.store.get(made.cells[0].results[0]).metadata["request"]["model"] == "emoji+int8"
    with pytest.raises(MethodFitError, match="quantized already"):
        studio.submit("quantize", {"base": {**BASE, "model": "emoji+int8"}})
    with pytest.raises(LoraError, match="cannot be added to quantized weights"):
        studio.submit("text_to_image", {**BASE, "model": "emoji+int8", "loras": ["any"]})
    assert not view.outcome["errors"] and view.outcome["rows"][1]["step_seconds"] is None


def test_keep_it_after_the_run(studio, compared):
    assert find_saved_key(studio, "emoji", compared[0].request.variants[1]) is None
    key = keep(studio, "emoji", compared[0].request.variants[1])
    assert key == find_saved_key(studio, "emoji", compared[0].request.variants[1]) == "emoji+int4-group_size32"
    _, made = done(studio, "text_to_image", **BASE, model=key)
    assert np.array_equal(made.cells[0].images, compared[1].cells[2].images)


@pytest.fixture(scope="module")
def tab(studio):
    return built(studio).tabs["quantize"]


def save_variant(tab, monkeypatch, job, variant, handler="save"):
    """The words of the notice and the other updates, as the handler of the button gives them."""
    monkeypatch.setattr(tab.saving, "find_job", lambda session: job)
    data = {component: component.value for component in tab.context.list_inputs}
    for updates in getattr(tab.saving, handler)({**data, tab.session: None, tab.saving.variant: variant}):
        yield updates.pop(tab.notice), updates


def test_keep_it_waits_for_the_device_and_says_so(studio, compared, tab, monkeypatch):
    key = quantized_key("emoji", compared[0].request.variants[2])
    assert key not in studio.catalog
    studio.loader.release("emoji")  # as when its room was needed: it has to be quantized anew
    busy = studio.submit("text_to_image", {**BASE, "num_inference_steps": 200})
    while not any(cell.rows for cell in busy.view().cells):
        busy.wait(busy.view().version, 5)
    said = save_variant(tab, monkeypatch, compared[0], 2)
    word, updates = next(said)
    assert "Waiting" in word and not updates and not busy.status.final and key not in studio.catalog
    busy.cancel()
    *between, (last, updates) = said
    assert any("Saving" in word and "Dynamic int8" in word for word, _ in between), between
    assert f"Saved as {key}" in last and key in studio.catalog and updates.keys() <= set(tab.context.list_outputs)
    values = {choice[-1] for update in updates.values() for choice in update.get("choices") or ()}
    assert key in values


def test_keep_it_and_use_it_opens_the_other_tab_with_the_model(studio, compared, tab, monkeypatch):
    *_, (last, updates) = save_variant(tab, monkeypatch, compared[0], 0, "save_and_use")
    assert "Saved as emoji+int8" in last and updates[tab.context.tabs].selected == "text_to_image"
    shown = [update.get("value") for update in updates.values() if isinstance(update, dict)]
    assert "emoji+int8" in shown


def test_what_cannot_be_kept_is_said_in_the_notice(studio, compared, tab, monkeypatch):
    def full(*_):
        raise ModelError("The disk is full.")

    (word, _), *more = save_variant(tab, monkeypatch, compared[0], 7)
    assert "Run it again" in word and not more
    with monkeypatch.context() as patch:
        patch.setattr("studio.models.save_quantized.keep_network", full)
        *_, (last, updates) = save_variant(tab, patch, compared[0], 1)
    assert "The disk is full." in last and 'role="alert"' in last and not updates
    with pytest.raises(UnknownMethodError, match="Unknown quantizer 'int3'"):
        studio.submit("keep", {"model": "emoji", "variant": "int3"})
    with pytest.raises(UnknownMethodError, match="model to keep 'file'"):
        studio.submit("keep", {"model": "emoji", "variant": "int8", "file": "/etc/passwd"})


@pytest.mark.parametrize("when", ["running", "Measuring"])
def test_a_cancel_stops_at_once_and_leaves_the_model_as_it_was(studio, when):
    with studio.loader.model("emoji") as full:
        before = {name: tensor.clone() for name, tensor in full.network.state_dict().items()}
    job = studio.submit(
        "quantize",
        {"base": {**BASE, "num_inference_steps": 30 if when == "running" else 2}, "variants": ["int8", "fp8"]},
    )
    view = job.view()
    while not (view.message.startswith(when) if when == "Measuring" else any(cell.rows for cell in view.cells)):
        assert not view.status.final, view.message
        view = job.wait(view.version, 10)
    began = time.monotonic()
    job.cancel()
    while not view.status.final:
        view = job.wait(view.version, 10)
    assert view.status is JobStatus.CANCELLED and time.monotonic() - began < 3
    with studio.loader.model("emoji") as full:
        assert all(torch.equal(tensor, before[name]) for name, tensor in full.network.state_dict().items())
        assert not any(layer._forward_hooks for layer in full.network.modules())
    assert len([cell for cell in view.cells if cell.results]) == (3 if when == "Measuring" else 0)


FREE = {"key": "simulated"}


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"variants": []}, SettingsError, "0 quantizers are given. Give a list of 1 to 7"),
        ({"variants": "int8"}, SettingsError, "'int8' is given"),
        ({"variants": ["int3"]}, UnknownMethodError, "Unknown quantizer 'int3'"),
        ({"variants": ["int8", "int8"]}, SettingsError, "int8 is given twice"),
        ({"variants": ["int4", {"key": "int4", "group_size": 64}]}, SettingsError, "int4 is given twice"),
        ({"variants": [{"key": "int4", "group_size": 7}]}, SettingsError, "Choose one of: 16, 32, 64, 128"),
        ({"variants": [{"key": "int8", "bits": 8}]}, UnknownMethodError, "Unknown setting of int8"),
        ({"variants": ["torchao_fp8"]}, MethodFitError, "torchao fp8 cannot run here: it needs an NVIDIA GPU"),
        ({"measure": 1}, SettingsError, "measure is '1'. It must be true or false"),
        ({"bits": 8}, UnknownMethodError, "Unknown setting of a quantization 'bits'"),
        ({"base": 3}, SettingsError, "Give an object of settings"),
        ({"base": {**BASE, "batch_size": 2}}, SettingsError, "one picture a cell"),
        (
            {"variants": [FREE | {"weights": "fp4_e2m1", "rounding": "feedback"}]},
            SettingsError,
            "not fp4_e2m1 by channel",
        ),
        ({"variants": [FREE | {"weight_ranges": "tensor", "rounding": "feedback"}]}, SettingsError, "int8 by tensor"),
        ({"variants": [FREE | {"smoothing": 1.5}]}, SettingsError, "smoothing is 1.5. Choose an exponent from 0 to 1"),
        ({"variants": [FREE | {"smoothing": -0.5}]}, SettingsError, "smoothing is -0.5"),
        (
            {"base": {**BASE, "model": "emoji-128-flow"}, "variants": ["tfmq"]},
            MethodFitError,
            "TFMQ-DM .simulated. does not fit this model: it has no U-Net. Choose a U-Net like",
        ),
        (
            {"base": {**BASE, "cache": {"key": "cachequant", "fit": "typed", "starts": "0, 2, 99"}}},
            SettingsError,
            "starts has the step 99, and this run's",
        ),
    ],
)
def test_bad_input_gets_one_sentence_at_once(studio, values, error, said):
    with pytest.raises(error, match=said):
        studio.submit("quantize", {"base": BASE, **values})


def test_one_method_that_fails_leaves_the_others(studio, monkeypatch):
    from pipelines.quantizers.fp8 import Fp8Codec

    def broken(self, rows):
        raise RuntimeError("no such kernel")

    studio.loader.release("emoji")
    monkeypatch.setattr(Fp8Codec, "pack", broken)
    _, view = done(studio, base=BASE, variants=["fp8", "nf4"], measure=False)
    assert view.status is JobStatus.DONE and view.cells[2].results and not view.cells[1].results
    assert (
        "fp8 could not quantize the layer" in view.cells[1].note
        and "no such kernel" in view.outcome["rows"][1]["problem"]
    )
    studio.loader.release("emoji")
    _, view = done(studio, base=BASE, variants=["fp8"], measure=False)
    assert view.status is JobStatus.FAILED and "no such kernel" in view.message


def test_simulated_recipes_stand_apart_and_come_back_from_a_link(tab):
    choices = [{"key": "int8"}, {"key": "vidit_q", "smoothing": 0.5}]
    updates = tab._receive({"quantize": {"variants": choices}})
    assert updates[tab.variants] == ["int8"] and updates[tab.recipes] == ["vidit_q"]
    assert tab.settings["vidit_q"].read(updates) == {"smoothing": 0.5}
    data = {tab.variants: ["int8"], tab.recipes: ["vidit_q"]}
    assert tab._list_chosen(data) == ["int8", "vidit_q"]

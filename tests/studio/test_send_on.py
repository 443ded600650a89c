"""From a stored result back into each tab: what the tab then reads is what the result was made from."""

from __future__ import annotations

import io

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import SettingsError
from studio.backend import Studio, StudioSettings
from studio.jobs.job import JobStatus
from studio.results.search import extract_settings
from tests.pipelines.tiny_models import tiny_sd
from tests.studio.page_forms import built, read_after
from tests.studio.waiting import ended

BASE = {
    "model": "tiny",
    "prompt": "a red cat",
    "seed": 5,
    "num_inference_steps": 3,
    "width": 32,
    "height": 32,
    "sampler": {"key": "ddim", "eta": 0.5},
    "guidance": {"key": "cfg", "guidance_scale": 3.0},
}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    tiny_sd(home / "models" / "tiny")
    studio = Studio(StudioSettings(outputs=home / "outputs", models=home / "models", device="cpu", memory_budget=2**30))
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def page(studio):
    return built(studio)


def made(studio, task, values, cell=-1):
    """The record of a finished job's cell."""
    job = studio.submit(task, values)
    view = ended(job)
    assert view.status is JobStatus.DONE, view.message
    return job.request, studio.store.get(view.cells[cell].results[0])


def sent(page, record, key):
    """What the gallery's button does to a tab, as the tab reads it then, and all updates."""
    gallery, receiver = page.tabs["gallery"], page.context.receive[key]
    updates = gallery._send(record.id, key, receiver)
    assert set(updates) <= {*receiver.outputs, page.context.tabs, *gallery._news}
    return read_after(page.tabs[key], updates), updates


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 48, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_edit_comes_back_whole_and_its_picture_is_the_source_under_the_brush(studio, page):
    own = {
        "edit": {"key": "replace", "cross_until": 0.4, "self_until": 0.2},
        "inversion": {"key": "edict", "strength": 0.7},
        "source_prompt": "a red dog",
        "fit": "resize",
    }
    request, record = made(studio, "edit", {"base": BASE, "picture": picture(), **own})
    values, updates = sent(page, record, "edit")
    tab = page.tabs["edit"]
    assert {name: values[name] for name in own} == own
    again = studio_request(studio, "edit", {**values, "picture": picture()})
    assert again.to_json() == request.to_json() | {"base": again.base.to_json()}
    assert again.base == request.base.replace(width=32, height=32)
    with Image.open(record.path) as stored:
        shown = stored.convert("RGB")
    assert values["picture"].tobytes() == shown.tobytes()
    assert updates[tab.edit_form.mask] == "", "nothing is drawn on it yet"
    assert "are not saved with it" in updates[tab.notice]


def studio_request(studio, task, values):
    from studio.tasks import TASKS

    return TASKS[task].parse(values, studio)


def test_a_picture_sent_to_edit_is_the_source_and_its_prompt_what_it_shows(studio, page):
    _, record = made(studio, "text_to_image", BASE)
    values, updates = sent(page, record, "edit")
    assert values["source_prompt"] == values["base"]["prompt"] == "a red cat"
    assert values["picture"].size == (32, 32)
    assert page.tabs["edit"].edit_form.edit.method not in updates  # what to do with it stays as it was chosen


def test_a_clip_is_no_source_and_says_so(studio, page):
    _, record = made(studio, "animate", {"base": BASE, "frames": 3, "fps": 5, "format": "gif", "keys": [{"seed": 9}]})
    updates = page.tabs["gallery"]._send(record.id, "edit", page.context.receive["edit"])
    assert "Edit changes pictures" in updates[page.tabs["gallery"].notice]
    assert not updates.keys() & page.context.receive["edit"].outputs


def test_a_picture_sent_to_video_moves(studio, page):
    _, record = made(studio, "text_to_image", BASE)
    values, _ = sent(page, record, "animate")
    assert values["method"]["key"] == "walk" and values["keys"] == [{"seed": BASE["seed"] + 1}]
    keys = studio_request(studio, "animate", values).keys
    assert [(key.prompt, key.seed) for key in keys] == [("a red cat", BASE["seed"] + 1)]
    last = page.context.receive["animate"].updates({**BASE, "seed": 2**63 - 1})  # no seed comes after it
    assert read_after(page.tabs["animate"], last)["keys"] == [{"seed": 0}]
    with pytest.raises(SettingsError, match="every frame would be the same picture"):
        studio_request(studio, "animate", {**values, "keys": [{}]})


def test_a_clip_comes_back_whole(studio, page):
    own = {
        "method": {"key": "walk", "loop": True},
        "frames": 4,
        "fps": 5,
        "format": "gif",
        "keys": [{"prompt": "a blue cat", "seed": 9}, {"prompt": "a red cat", "seed": 2**60 + 1}],
    }
    request, record = made(studio, "animate", {"base": BASE, **own})
    values, _ = sent(page, record, "animate")
    assert studio_request(studio, "animate", values) == request


def test_a_quantization_comes_back_whole_from_each_of_its_pictures(studio, page):
    variants = [{"key": "int4", "group_size": 16}, {"key": "fp8"}]
    what = {"base": BASE, "variants": variants, "measure": False}
    for cell in range(3):
        request, record = made(studio, "quantize", what, cell)
        values, _ = sent(page, record, "quantize")
        assert values["variants"] == variants and values["measure"] is False and values["peak"] is False
        assert studio_request(studio, "quantize", values).to_json() == request.to_json()


def test_a_picture_of_an_older_version_brings_its_own_quantizer_alone(studio, page):
    _, record = made(studio, "text_to_image", BASE)
    metadata = {**record.metadata, "figures": {"quantization": {"key": "fp8", "model": "tiny"}}}
    old = studio.store.save(Image.new("RGB", (32, 32)), metadata, kind="quantize")
    values, _ = sent(page, old, "quantize")
    assert values["variants"] == [{"key": "fp8"}]


@pytest.mark.parametrize(
    "what",
    [
        {
            "cells": [
                {"sampler": "heun", "schedule": "uniform", "num_inference_steps": 2},
                {"sampler": "euler", "schedule": "karras", "guidance.guidance_scale": 2.5},
            ]
        },
        {
            "cells": [{"sampler": "heun", "schedule": "uniform"}, {"sampler": "ddim", "schedule": "uniform"}],
            "equal": "nfe",
        },
        {
            "x": {"field": "sampler", "values": ["heun", "ddim"]},
            "y": {"field": "guidance.guidance_scale", "values": [2, 3.5]},
        },
        {"x": {"field": "prompt", "values": ["a cat, red", "a dog"]}},
    ],
    ids=["cells", "equal evaluations", "grid", "prompts"],
)
def test_a_comparison_comes_back_whole_from_one_of_its_cells(studio, page, what):
    request, record = made(studio, "compare", {"base": BASE, "reference_steps": 4, **what}, 1 if "cells" in what else 0)
    values, _ = sent(page, record, "compare")
    assert studio_request(studio, "compare", values).to_json() == request.to_json()


def test_what_a_cells_row_cannot_show_is_said(studio, page):
    cells = [{"sampler": "heun", "seed": 7}, {"sampler": {"key": "ddim", "eta": 0.5}}]
    _, record = made(studio, "compare", {"base": BASE, "cells": cells, "reference": False}, 0)
    values, updates = sent(page, record, "compare")
    assert [cell["sampler"] for cell in values["cells"]] == ["heun", "ddim"]
    assert "seed, sampler eta" in updates[page.tabs["gallery"].notice]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"edit": {"edit": {"key": "dance"}}}, "Unknown edit"),
        ({"edit": {"edit": {"key": "image_to_image", "strength": 7}}}, "edit was not loaded"),
        ({"edit": {"fit": "../../etc/passwd"}}, "fit was not loaded"),
        ({"edit": {"source_prompt": ["x"]}}, "must be a text"),
    ],
)
def test_what_a_file_says_is_believed_only_as_far_as_it_can_be(studio, page, own, said):
    _, record = made(studio, "text_to_image", BASE)
    forged = studio.store.save(Image.new("RGB", (32, 32)), {**record.metadata, "figures": own}, kind="edit")
    updates = page.tabs["gallery"]._send(forged.id, "edit", page.context.receive["edit"])
    assert said in updates[page.tabs["gallery"].notice]
    assert page.tabs["edit"].edit_form.edit.method not in updates


def test_a_model_that_is_gone_takes_the_comparisons_own_with_it(studio, page):
    cells = [{"sampler": "heun"}, {"sampler": "ddim"}]
    _, record = made(studio, "compare", {"base": BASE, "cells": cells, "reference": False}, 0)
    metadata = dict(record.metadata)
    metadata["request"] = {**metadata["request"], "model": "gone"}
    comparison = metadata["figures"]["comparison"]
    metadata["figures"] = {"comparison": {**comparison, "base": {**comparison["base"], "model": "gone"}}}
    old = studio.store.save(Image.new("RGB", (32, 32)), metadata, kind="compare")
    assert extract_settings(old)["comparison_base"]["model"] == "gone"
    _, updates = sent(page, old, "compare")
    form = page.tabs["compare"].form
    assert form.fields["model"] not in updates and form.methods["sampler"].method not in updates
    assert "is no longer available" in updates[page.tabs["gallery"].notice]
    assert isinstance(updates[page.context.tabs], gr.Tabs)

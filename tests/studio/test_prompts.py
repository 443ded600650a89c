"""What a prompt may say, from the request to the stored picture."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipelines.core.errors import LoraError, MethodFitError, PromptError, UnknownMethodError
from pipelines.models.catalog import SHIPPED
from pipelines.requests.prompts import split_prompts
from studio.jobs.job import JobStatus
from studio.tasks import TASKS
from studio.ui import markup
from tests.studio.waiting import ended

RUN = {"num_inference_steps": 2, "seed": 5}


def parsed(studio, **values):
    return TASKS["text_to_image"].parse({**RUN, **values}, studio)


def image_of(studio, **values):
    view = ended(studio.submit("text_to_image", {**RUN, **values}))
    assert view.status is JobStatus.DONE, view.message
    return view.cells[0]


@pytest.fixture
def ink(studio):
    """A LoRA of the shipped model that changes its picture, in a file whose name has blanks."""
    folder = studio.catalog.folder / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(SHIPPED / "unet" / "diffusion_pytorch_model.safetensors")
    name = next(one for one in weights if one.endswith("attn2.to_q.weight"))
    rows, columns = weights[name].shape
    key = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
    tensors = {f"{key}.lora_down.weight": torch.ones(1, columns), f"{key}.lora_up.weight": torch.ones(rows, 1)}
    save_file(tensors, folder / "My Ink v1.5.safetensors")
    yield "My Ink v1.5"
    shutil.rmtree(folder)


def test_a_lora_in_the_prompt_is_one_of_the_list(studio, ink):
    request = parsed(studio, prompt=f"a fox <lora:{ink}:0.5> on blue")
    assert request.prompt == "a fox on blue"
    assert [(lora.name, lora.weight) for lora in request.loras] == [(studio.lora_key(ink), 0.5)]
    listed = parsed(studio, prompt="a fox on blue", loras=[{"name": studio.lora_key(ink), "weight": 0.5}])
    assert request == listed
    assert studio.lora_key(ink.upper()) == studio.lora_key(f"{ink}.safetensors") == studio.lora_key(ink)


def test_a_lora_that_is_not_there_is_told_with_the_nearest_before_the_run(studio, ink):
    with pytest.raises(LoraError, match=rf"no LoRA 'my ink'.*Nearest: {studio.lora_key(ink)}"):
        parsed(studio, prompt="a fox <lora:my ink:0.5>")
    with pytest.raises(LoraError) as refusal:  # a near name that is of another model helps nobody
        parsed(studio, prompt="a fox <lora:emoji-128-four-step:1>", model="emoji")
    assert "emoji-128-four-steps" in [lora.key for lora in studio.catalog.loras()]
    assert "four-steps" not in str(refusal.value)
    with pytest.raises(PromptError, match="negative prompt"):
        parsed(studio, prompt="a fox", negative_prompt=f"<lora:{ink}:1>")
    with pytest.raises(PromptError, match="cannot be read"):
        parsed(studio, prompt=f"<lora:{ink}:much>")


def test_what_is_stored_draws_to_itself_and_makes_the_same_picture(studio):
    prompt = r"a {fox|owl} on a [blue|red] background \{a\|b\} (very:1.2) \__x__"
    cell = image_of(studio, prompt=prompt, negative_prompt="{fox|owl}")
    with Image.open(studio.store.get(cell.results[0]).path) as picture:
        texts = [json.loads(text) for text in picture.text.values() if text.startswith("{")]
    request = next(text.get("metadata", text) for text in texts)["request"]
    assert request["prompt"].endswith(r"\{a\|b\} (very:1.2) \__x__") and "|red]" in request["prompt"]
    again = image_of(studio, **{**request, "seed": 5})
    assert (again.images == cell.images).all()
    assert parsed(studio, **{**request, "seed": 77}).prompt == request["prompt"]


def test_prompt_and_negative_prompt_draw_apart(studio):
    text = "{a|b|c|d}"
    pairs = {
        (one.prompt, one.negative_prompt)
        for one in (parsed(studio, prompt=text, negative_prompt=text, seed=seed) for seed in range(60))
    }
    assert any(first != second for first, second in pairs)


def test_the_weighting_is_a_setting_of_the_request(studio):
    prompt = "a (rose:2) on a blue background"
    default = image_of(studio, prompt=prompt).images
    assert (image_of(studio, prompt=prompt, prompt_weighting="interpolate").images == default).all()
    assert (image_of(studio, prompt=prompt, prompt_weighting="multiply").images != default).any()
    with pytest.raises(UnknownMethodError, match="interpolate, multiply, norm, mean"):
        parsed(studio, prompt=prompt, prompt_weighting="loud")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a (fox:1.2.3)", "not a number"),
        ("[fox:owl:0.5.5]", "not a number"),
        (" AND ".join("abcdefghij"), "At most 8"),
        ("a fox :99 AND an owl", "between"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused_before_the_run(studio, prompt, words):
    with pytest.raises(PromptError, match=words):
        parsed(studio, prompt=prompt)


def test_an_edit_that_inverts_asks_for_one_text_and_others_switch(studio):
    picture = Image.new("RGB", (64, 64), "blue")
    base = {**RUN, "prompt": "[a fox:an owl:0.5]"}
    with pytest.raises(MethodFitError, match="Edits that compare the picture with its prompt"):
        TASKS["edit"].parse({"base": base, "picture": picture, "edit": "reprompt", "source_prompt": "a fox"}, studio)
    view = ended(studio.submit("edit", {"base": base, "picture": picture, "edit": "image_to_image"}))
    assert view.status is JobStatus.DONE, view.message


def test_a_comparison_counts_every_part_of_a_composition(studio):
    base = {**RUN, "prompt": "a fox AND an owl", "num_inference_steps": 6}
    cells = [{}, {"prompt": "a fox"}]
    view = ended(studio.submit("compare", {"base": base, "cells": cells, "equal": "nfe", "reference": False}))
    assert view.status is JobStatus.DONE, view.message
    # 6 steps of 3 evaluations against 9 steps of 2.
    assert [(len(cell.rows), cell.rows[-1].evaluations) for cell in view.cells[:2]] == [(6, 18), (9, 18)]


def test_bars_in_brackets_part_no_prompts_of_an_axis():
    assert split_prompts("a [b|c] d | {e|f} |g\nh") == ["a [b|c] d", "{e|f}", "g", "h"]


def test_the_page_says_what_a_prompt_may_hold_and_what_a_model_does_not_read():
    hint = markup.prompt_hint(["animal"], "This model reads AND as a word.")
    for sign in ("(word:1.3)", "[fox:cat:0.5]", "[fox|cat]", "AND", "BREAK", "&lt;lora:name:0.8&gt;", "__animal__"):
        assert sign in hint
    assert hint.endswith("<em>This model reads AND as a word.</em></p>")


@pytest.mark.parametrize(
    ("task", "values", "words"),
    [
        ("learn", {"base": RUN, "prompts": ["[a fox:an owl:0.5]"]}, "Fits take a prompt that says the same"),
        (
            "animate",
            {
                "base": {**RUN, "prompt": "a fox AND an owl"},
                "method": "walk",
                "keys": [{"prompt": "an owl"}],
                "frames": 4,
            },
            "Walks take a prompt that says the same",
        ),
    ],
)
def test_what_needs_one_text_refuses_others_before_the_run(studio, task, values, words):
    with pytest.raises(MethodFitError, match=words):
        TASKS[task].parse(values, studio)


def test_words_in_two_chunks_cannot_be_edited_one_by_one(studio):
    base = {**RUN, "prompt": "an owl BREAK on blue"}
    values = {
        "base": base,
        "picture": Image.new("RGB", (64, 64)),
        "edit": "replace",
        "source_prompt": "a fox BREAK on blue",
    }
    view = ended(studio.submit("edit", values))
    assert view.status is JobStatus.FAILED and "leave BREAK out" in view.message

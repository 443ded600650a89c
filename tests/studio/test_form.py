"""The form gives the request that stands on the page, and shows what a draft, an example or a picture says."""

from __future__ import annotations

import gradio as gr
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.types import Request
from studio.infotext import Labels, Restored, write
from studio.page.text_to_image.examples import EXAMPLES
from studio.ui.form import FIXED, RANDOM, RequestForm
from studio.ui.restore import read_settings
from studio.ui.styles import STYLES, apply_style, list_fitting_styles
from tests.browser.stand_in import FLOW, StandIn
from tests.studio.page_forms import shown


@pytest.fixture
def studio(tmp_path):
    return StandIn(tmp_path)


@pytest.fixture
def form(studio):
    with gr.Blocks():
        form = RequestForm(studio, "t")
        form.prompt("a fox")
        form.words(), form.model(), form.steps(), form.seed(), form.size()
        for name in ("sampler", "schedule", "guidance"):
            form.method(name)
        form.variation(), form.loras(), form.wire()
    return form


def data_of(form, updates=()):
    return shown(form.inputs, dict(updates))


# The form.


def test_a_form_left_alone_is_a_request_with_the_models_own_settings(form):
    values = form.request(form.draft(data_of(form)))
    request = Request.parse(values)
    assert (request.prompt, request.model, request.width, request.height, request.num_inference_steps) == (
        "a fox",
        "emoji",
        64,
        64,
        25,
    )
    assert request.guidance.key == "cfg"


def test_a_draft_comes_back_as_it_was(form):
    draft = {
        **form.draft(data_of(form)),
        "loras": [{"name": "neon", "weight": 0.5}],
        "prompt": "a cat",
        "negative_prompt": "blur",
        "style": "on_teal",
        "num_inference_steps": 7,
        "seed": 2**60 + 1,
        "seed_mode": FIXED,
        "width": 32,
        "height": 48,
        "batch_size": 3,
        "variation_strength": 0.5,
        "variation_seed": 9,
        "sampler": {"key": "ddim", "eta": 0.5},
        "schedule": {"key": "karras"},
        "guidance": {"key": "cfg", "guidance_scale": 2.0},
    }
    back = form.draft(data_of(form, form.updates(draft)))
    assert back == draft
    assert form.request(back)["seed"] == 2**60 + 1


def test_a_random_seed_is_drawn_for_each_request(form):
    draft = {**form.draft(data_of(form)), "seed_mode": RANDOM, "seed": 5}
    assert len({form.request(draft)["seed"] for _ in range(8)}) > 1


def test_a_seed_that_is_no_number_is_refused_in_words(form):
    with pytest.raises(SettingsError, match="whole number"):
        form.draft(data_of(form) | {form.fields["seed"]: "12a"})


def test_loras_travel_with_their_weights(form):
    data = data_of(form) | {form.lora.names: ["neon", "sketch"], form.lora.weights[0]: 0.4}
    assert form.draft(data)["loras"] == [{"name": "neon", "weight": 0.4}, {"name": "sketch", "weight": 1}]


def test_another_model_brings_its_settings_and_offers_what_fits(form):
    updates = form.updates({"model": FLOW.key})
    offered = [key for _, key in updates[form.methods["sampler"].method]["choices"]]
    assert "flow_euler" in offered and "euler" not in offered
    assert updates[form.fields["width"]]["value"] == 32
    assert updates[form.fields["num_inference_steps"]]["value"] == 9


def test_a_model_that_is_not_here_is_not_chosen(form):
    assert form.fields["model"] not in form.updates({"model": "stranger", "prompt": "x"})


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.label)
def test_every_example_is_a_request(form, example):
    request = Request.parse(form.request(form.draft(data_of(form, form.updates(example.values)))))
    assert request.prompt == example.values["prompt"]


# Styles.


def test_styles_put_words_around_the_prompt_and_replace_a_background():
    assert apply_style("on_orange", "a fox on a blue background", "") == ("a fox on an orange background", "")
    assert apply_style("ink", "a {fox|cat}", "fur")[0] == "ink drawing of a {fox|cat}, clean lines, white paper"
    assert apply_style("ink", "a fox", "fur")[1].startswith("fur, photo")
    assert apply_style("ink", "  ", "")[0].strip() == ""
    with pytest.raises(UnknownMethodError):
        apply_style("baroque", "a fox", "")


def test_each_model_is_offered_styles_it_understands():
    assert {style.key for style in list_fitting_styles("emoji")} & {
        style.key for style in list_fitting_styles("sdxl")
    } == {"none"}
    assert all("{prompt}" in style.prompt for style in STYLES.values())


# Pictures with settings.


def test_a_method_that_does_not_fit_the_model_is_left_out_with_a_note(studio):
    values = {"prompt": "a fox", "num_inference_steps": 10**6, "sampler": {"key": "euler"}}
    found = Restored({**values, "guidance": {"key": "cfg", "guidance_scale": 99}}, [], "stepwise")
    studio.read_picture = lambda path: found
    restored = read_settings(studio, "any", FLOW.key)
    assert restored.values == {"prompt": "a fox", "num_inference_steps": studio.limits.max_steps, "loras": []}
    assert len(restored.notes) == 3


@pytest.mark.parametrize(
    ("model", "kept", "said"),
    [
        ("emoji", [{"name": "neon", "weight": -0.5}], ["'gone' is not in the models folder"]),
        (FLOW.key, [], ["made with Emoji 64", "'neon' and 'gone' are not in the models folder"]),
    ],
)
def test_a_picture_of_ours_brings_its_loras_and_says_which_model_made_it(studio, model, kept, said):
    loras = ({"name": "neon", "weight": -0.5}, {"name": "gone", "weight": 1.0})
    studio.read_picture = lambda path: Restored({"prompt": "a fox"}, [], "stepwise", "emoji", loras)
    restored = read_settings(studio, "any", model)
    assert restored.values["loras"] == kept and "model" not in restored.values
    assert len(restored.notes) == len(said) and all(any(words in note for note in restored.notes) for words in said)


def test_a_picture_of_an_unknown_model_says_its_name_and_loads_nothing(studio):
    studio.read_picture = lambda path: Restored({"prompt": "a fox"}, [], "stepwise", "../<b>evil")
    restored = read_settings(studio, "any", "emoji")
    assert restored.values == {"prompt": "a fox", "loras": []}
    assert restored.notes == ["The picture was made with the model '../<b>evil', which is not here."]


def test_no_more_loras_are_taken_over_than_may_be_applied(studio):
    studio.loras = lambda model: [f"l{place}" for place in range(16)]
    loras = tuple({"name": f"l{place}", "weight": 1.0} for place in range(16))
    studio.read_picture = lambda path: Restored({"prompt": "a fox"}, [], "stepwise", "emoji", loras)
    restored = read_settings(studio, "any", "emoji")
    assert restored.values["loras"] == list(loras[: studio.limits.max_loras])
    assert restored.notes == [f"Of its 16 LoRAs the first {studio.limits.max_loras} were loaded."]


def test_a_picture_of_ours_is_read_back(studio, tmp_path):
    picture, path = Image.new("RGB", (8, 8)), tmp_path / "mine.png"
    texts = PngInfo()
    texts.add_text("parameters", write({**Request(prompt="a fox", seed=7).to_json()}, Labels(model="m", version="v")))
    picture.save(path, pnginfo=texts)
    assert studio.read_picture(str(path)).values["prompt"] == "a fox"

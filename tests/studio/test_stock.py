"""A model that runs through its own pipeline: what it cannot have is refused and not offered, and no file claims it."""

from __future__ import annotations

import json

import gradio as gr
import pytest
import tiny_models
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from tiny_stock import tiny_qwen

from pipelines.core.errors import MethodFitError
from pipelines.core.types import Choice, Request
from pipelines.families.stock import StockPipeline
from studio import infotext
from studio.backend import Studio, StudioSettings
from studio.jobs.job import JobStatus
from studio.tasks.stock import build_arguments
from studio.ui.form import TABLES, RequestForm
from tests.studio.page_forms import shown as shown_after
from tests.studio.waiting import ended

REQUEST = {"model": "other", "prompt": "a red fox", "num_inference_steps": 3, "seed": 5}
OURS = ("sampler", "schedule", "start")


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    model = folder / "models" / "other"
    tiny_models.tiny_sd(model, seed=1)
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionPAGPipeline"}))
    studio = Studio(StudioSettings(outputs=folder / "outputs", models=folder / "models", device="cpu"))
    yield studio
    studio.close()


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("sampler", "heun"),
        ("sampler", "dpmpp_2m"),
        ("schedule", {"key": "karras", "rho": 5.0}),
        ("schedule", "uniform"),
        ("start", "gaussian"),
        ("start", "noise"),
    ],
)
def test_a_method_of_our_loop_is_refused_with_the_reason(studio, name, choice):
    with pytest.raises(MethodFitError, match="runs through its own pipeline"):
        studio.submit("text_to_image", {**REQUEST, name: choice})


def test_a_picture_says_nothing_of_what_its_pipeline_never_saw(studio):
    view = ended(studio.submit("text_to_image", {**REQUEST, "guidance": {"key": "cfg", "guidance_scale": 3.0}}))
    assert view.status is JobStatus.DONE, view.message
    record = studio.store.get(view.cells[0].results[0])
    assert not set(OURS) & record.metadata["request"].keys()
    assert record.metadata["request"]["guidance"] == {"key": "cfg", "guidance_scale": 3.0}
    with Image.open(record.path) as picture:
        text = picture.text["parameters"]
    assert "Sampler" not in text and "Schedule" not in text and "CFG scale: 3" in text
    values = infotext.read(record.path).values
    assert not set(OURS) & values.keys()
    again = ended(studio.submit("text_to_image", {**values, "model": "other"}))
    assert (again.cells[0].images == view.cells[0].images).all()


def test_guidance_rescale_reaches_a_pipeline_that_has_it_and_is_refused_by_one_that_has_not(studio, monkeypatch):
    from diffusers import StableDiffusionPAGPipeline

    call = StableDiffusionPAGPipeline.__call__
    guidance = {"key": "cfg", "guidance_scale": 5.0}
    plain = ended(studio.submit("text_to_image", {**REQUEST, "guidance": guidance}))
    rescaled = ended(studio.submit("text_to_image", {**REQUEST, "guidance": {**guidance, "guidance_rescale": 0.7}}))
    assert not (plain.cells[0].images == rescaled.cells[0].images).all()

    def without_rescale(
        self,
        prompt=None,
        height=None,
        width=None,
        num_inference_steps=50,
        guidance_scale=5.0,
        negative_prompt=None,
        num_images_per_prompt=1,
        generator=None,
    ):
        return call(self, prompt, height=height, width=width, num_inference_steps=num_inference_steps)

    monkeypatch.setattr(StableDiffusionPAGPipeline, "__call__", without_rescale)
    refused = ended(studio.submit("text_to_image", {**REQUEST, "guidance": {**guidance, "guidance_rescale": 0.7}}))
    assert refused.status is JobStatus.FAILED and "rescale" in refused.message


def test_guidance_that_the_call_does_not_take_is_refused_where_it_was_chosen_and_in_no_file_otherwise(
    studio, monkeypatch
):
    from diffusers import StableDiffusionPAGPipeline

    call = StableDiffusionPAGPipeline.__call__

    def unguided(self, prompt=None, num_inference_steps=50, num_images_per_prompt=1, generator=None):
        return call(self, prompt, num_inference_steps=num_inference_steps, generator=generator)

    monkeypatch.setattr(StableDiffusionPAGPipeline, "__call__", unguided)
    chosen = ended(studio.submit("text_to_image", {**REQUEST, "guidance": {"key": "cfg", "guidance_scale": 3.0}}))
    assert chosen.status is JobStatus.FAILED and "guidance_scale" in chosen.message
    view = ended(studio.submit("text_to_image", REQUEST))
    assert view.status is JobStatus.DONE, view.message
    record = studio.store.get(view.cells[0].results[0])
    assert "guidance" not in record.metadata["request"]
    sized = ended(studio.submit("text_to_image", {**REQUEST, "width": 64, "height": 64}))
    assert sized.status is JobStatus.FAILED and "'height'" in sized.message


def test_only_what_a_stock_model_takes_is_offered(studio):
    with gr.Blocks():
        form = RequestForm(studio, "t")
        form.prompt("a fox")
        form.words(), form.model(), form.steps(), form.seed(), form.size()
        for name in TABLES:
            form.method(name)
        form.variation(), form.loras(), form.wire()
    updates = form.updates({"model": "other"})
    data = shown_after(form.inputs, updates)
    for name in OURS:
        shown = updates[form.methods[name].method]
        assert shown["choices"] == [] and shown["visible"] is False
        assert updates[form.methods[name].panel.component] is None
    draft = form.draft(data)
    assert not set(OURS) & form.request(draft).keys()
    assert studio.submit("text_to_image", {**form.request(draft), "num_inference_steps": 1})
    back = form.updates({"model": "emoji"})
    assert all(
        back[form.methods[name].method]["visible"] and back[form.methods[name].method]["choices"] for name in OURS
    )


def test_tabs_that_need_our_loop_do_not_offer_it(studio):
    with gr.Blocks():
        assert "other" in {entry.key for entry in RequestForm(studio, "t2i").models}
        assert "other" not in {entry.key for entry in RequestForm(studio, "cmp", own_loop=True).models}


def guided(pipe, scale: float, negative: str = ""):
    """What our arguments give with this guidance, and the request's own arguments."""
    request = Request(
        prompt="a red fox",
        negative_prompt=negative,
        num_inference_steps=3,
        width=32,
        height=32,
        seed=4,
        guidance=Choice("cfg", {"guidance_scale": scale}),
    )
    stock = StockPipeline(pipe)
    *_, result = stock.run({**build_arguments(request, stock, {}), "output_type": "latent"})
    return result.output.images


def called(pipe, **arguments):
    return pipe(
        "a red fox",
        num_inference_steps=3,
        width=32,
        height=32,
        output_type="latent",
        generator=torch.Generator().manual_seed(4),
        **arguments,
    ).images


def test_qwen_image_is_guided_and_a_blank_stands_for_no_negative_prompt():
    pipe = tiny_qwen()
    assert torch.equal(guided(pipe, 4.0), called(pipe, true_cfg_scale=4.0, negative_prompt=" "))
    assert torch.equal(guided(pipe, 4.0, "blurry"), called(pipe, true_cfg_scale=4.0, negative_prompt="blurry"))
    unguided = called(pipe, true_cfg_scale=1.0)
    assert torch.equal(guided(pipe, 1.0), unguided) and not torch.equal(guided(pipe, 4.0), unguided)


def test_a_distilled_network_takes_the_scale_as_its_input():
    stock = StockPipeline(tiny_qwen(guidance_embeds=True))
    arguments = build_arguments(Request(prompt="a", guidance=Choice("cfg", {"guidance_scale": 3.5})), stock, {})
    assert arguments["guidance_scale"] == 3.5 and "true_cfg_scale" not in arguments
    assert stock.traits.guidance == "embedded"


def test_a_size_goes_only_to_a_call_that_takes_one():
    class Sizeless(DiffusionPipeline):
        def __call__(self, prompt=None, num_inference_steps: int = 3, guidance_scale: float = 5.0):
            return {"images": []}

    stock = StockPipeline(Sizeless())
    defaults = {"width": 256, "height": 256}
    left = build_arguments(Request(prompt="a", width=256, height=256), stock, defaults)
    assert not {"width", "height"} & left.keys()
    stock.run(left).close()
    with pytest.raises(MethodFitError, match="width"):
        stock.run(build_arguments(Request(prompt="a", width=512, height=256), stock, defaults))


def test_a_size_that_the_pipeline_refuses_ends_with_its_reason(studio):
    view = ended(studio.submit("text_to_image", {**REQUEST, "width": 33, "height": 32}))
    assert view.status is JobStatus.FAILED and "divisible by 8" in view.message and "broke" not in view.message

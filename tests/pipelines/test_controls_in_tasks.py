"""ControlNets, T2I-Adapters and IP-Adapters in edits and walks: the edit's row is steered, the source's is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetImg2ImgPipeline, T2IAdapter
from PIL import Image
from test_controlnet import PICTURE, SIZE, TOKENS, randomize, sd, sd3
from test_image_prompt import adapter_state, image_encoder

from pipelines.core.loop import denoise
from pipelines.core.types import Choice
from pipelines.edits import EDITS
from pipelines.families import family_of
from pipelines.families.image_prompt import list_text_attentions
from pipelines.families.ip_adapter import IpAdapter
from pipelines.inversions import INVERSIONS
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.workflows.edit.canvas import canvas_of, lay_over
from pipelines.workflows.edit.request import Picture
from pipelines.workflows.video.base import VideoJob
from pipelines.workflows.video.walk import Walk, WalkSettings
from tests.pipelines.edit_requests import BASE, edited, request_of
from tests.pipelines.network_state import assert_unchanged, state_of
from tests.pipelines.tiny_models import TINY_ADAPTER

LINES = Choice("controlnet", {"model": "lines", "picture": "x", "strength": 0.8})
LOOK = Choice("ip_adapter", {"model": "look", "picture": "x", "strength": 0.8})
SHAPES = Choice("t2i_adapter", {"model": "shapes", "picture": "x", "strength": 0.8})
STEERED = {"control": LINES, "t2i_adapter": SHAPES, "image_prompt": LOOK}


def build_adapter(unet):
    state = adapter_state(unet, False)
    names = [f"ip_adapter.{2 * number + 1}" for number in range(len(list_text_attentions(unet)))]

    def layers(kind):
        weights = [state[f"{name}.{kind}.weight"] for name in names]
        built = [torch.nn.Linear(one.shape[1], one.shape[0], bias=False) for one in weights]
        for layer, weight in zip(built, weights, strict=True):
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        return built

    from diffusers.models.embeddings import ImageProjection

    width = state["image_proj.norm.weight"].shape[0]
    projection = ImageProjection(image_embed_dim=24, cross_attention_dim=width, num_image_text_embeds=4)
    names_there = {"proj": "image_embeds", "norm": "norm"}
    projection.load_state_dict(
        {
            f"{names_there[name.split('.')[1]]}.{name.split('.')[2]}": tensor
            for name, tensor in state.items()
            if name.startswith("image_proj.")
        }
    )
    return IpAdapter(projection, layers("to_k_ip"), layers("to_v_ip"), reads_layers=False)


@pytest.fixture(scope="module")
def pipe():
    return sd()


@pytest.fixture(scope="module")
def family(pipe):
    shapes = randomize(T2IAdapter(**TINY_ADAPTER), 0.05)
    parts = {"ip_adapter": build_adapter(pipe.unet), "image_encoder": image_encoder(), "t2i_adapter": shapes}
    family = family_of({**pipe.components, **parts})
    family.pictures = {"x": PICTURE}
    return family


@pytest.fixture(scope="module")
def flow_family():
    family = family_of(sd3().components)
    family.pictures, family.max_sequence_length = {"x": PICTURE}, TOKENS
    return family


@pytest.fixture(scope="module")
def picture():
    return Picture(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8))


@pytest.fixture(scope="module")
def mask():
    drawn = np.zeros((SIZE, SIZE), bool)
    drawn[6:19, 9:21] = True
    return Picture(drawn)


METHODS = [(edit, "direct") for edit in EDITS] + [("reprompt", one) for one in INVERSIONS if one != "direct"]


@pytest.mark.parametrize(("edit", "inversion"), METHODS)
def test_every_edit_is_steered_and_the_source_beside_it_is_not(family, flow_family, picture, mask, edit, inversion):
    steering = STEERED
    if EDITS[edit].fit(family.traits) or INVERSIONS[inversion].fit(family.traits):
        family, steering = flow_family, {"control": LINES}
    before = state_of(family.network)
    settings = {"iterations": 1} if inversion in ("null_text", "dual") else {}
    request = request_of(picture, edit, mask, inversion={"key": inversion, **settings})
    (_, way, plain), (_, steered_way, steered) = (
        edited(family, request.replace(base=request.base.replace(**changes))) for changes in ({}, steering)
    )
    if way is not None:
        assert torch.equal(way.steps[-1].latents, steered_way.steps[-1].latents)
    last, plain_last = (steps[-1].denoised for steps in (steered, plain))
    if len(last) > 1:
        # Another batch beside it may change the order of float32's sums.
        torch.testing.assert_close(last[SOURCE], plain_last[SOURCE], rtol=1e-4, atol=1e-4)
    row = TARGET if len(last) > 1 else SOURCE
    assert last.isfinite().all() and (last[row] - plain_last[row]).abs().max() > 1e-2
    assert_unchanged(family.network, before)


@pytest.mark.parametrize("field", STEERED)
def test_at_strength_0_an_edit_is_as_without_bit_for_bit(family, picture, field):
    neutral = Choice(STEERED[field].key, {**STEERED[field].settings, "strength": 0.0})
    for edit in ("image_to_image", "reprompt"):
        plain, same = (
            edited(family, request_of(picture, edit, **changes))[2][-1].latents for changes in ({}, {field: neutral})
        )
        assert torch.equal(plain, same)


def test_image_to_image_is_diffusers_own(pipe, family, picture):
    window = {"begin": 0.0, "end": 0.5}
    control = Choice("controlnet", {**LINES.settings, **window})
    request = request_of(
        picture,
        Choice("image_to_image", {"strength": 0.75}),
        sampler=Choice("ddim"),
        num_inference_steps=8,
        schedule=Choice("uniform", {"spacing": "leading", "final": "first"}),
        control=control,
    )
    editing, _, steps = edited(family, request)
    stock = StableDiffusionControlNetImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    theirs = stock(
        request.base.prompt,
        negative_prompt=request.base.negative_prompt,
        image=editing.image_latents,
        control_image=Image.fromarray(PICTURE),
        strength=0.75,
        num_inference_steps=8,
        guidance_scale=4.0,
        controlnet_conditioning_scale=0.8,
        control_guidance_end=0.5,
        height=SIZE,
        width=SIZE,
        output_type="latent",
        generator=[torch.Generator().manual_seed(request.base.seed)],
    ).images
    assert (steps[-1].latents - theirs).abs().max() < 4e-5 * theirs.abs().max()


def test_the_control_picture_lies_over_the_source(picture, mask):
    def lay(edit, pixels, fit="crop", **settings):
        request = request_of(picture, Choice(edit, settings), mask)
        return canvas_of(request, (SIZE, SIZE)), lay_over(request, canvas_of(request, (SIZE, SIZE)), pixels, fit)

    canvas, same = lay("image_to_image", picture.pixels)
    assert np.array_equal(same, canvas.pixels)
    canvas, same = lay("inpaint", picture.pixels, area="only masked", padding=2)
    assert canvas.whole is not None and np.array_equal(same, canvas.pixels)
    canvas, same = lay("outpaint", picture.pixels, left=8, bottom=4)
    assert np.array_equal(same, canvas.pixels)
    _, wide = lay("image_to_image", np.repeat(picture.pixels, 2, axis=1), "resize")
    assert wide.shape == (SIZE, SIZE, 3) and np.abs(wide.astype(int) - picture.pixels).mean() < 16


def test_a_walk_is_steered_at_every_frame_as_text_to_image_is(family):
    keys = tuple(BASE.replace(prompt=prompt, **STEERED) for prompt in ("a red cat", "a blue fox"))
    job = VideoJob(keys, 3, 8)
    events = Walk(WalkSettings(frames_at_once=2)).run(job, family, lambda: False)
    frames = np.concatenate([event.pictures for event in events if hasattr(event, "pictures")])
    for key, frame in ((keys[0], frames[0]), (keys[1], frames[2])):
        *_, last = denoise(build_run(resolve(key, family), family))
        alone = (family.decode(last.latents).clamp(0, 1) * 255).round()[0].permute(1, 2, 0)
        assert np.abs(frame.astype(int) - alone.numpy().astype(int)).max() <= 1

"""Edits: exact outside their masks, equal prompts give equal rows, and the network comes back as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline
from PIL import Image

from pipelines.core.denoiser import Cancelled
from pipelines.core.errors import MethodFitError, PictureError, PromptError, SettingsError
from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request, Traits, Trajectory
from pipelines.edits import EDITS
from pipelines.edits.attention import attention_layers, opened_attention
from pipelines.edits.prompt_to_prompt import SharedMaps
from pipelines.edits.words import align, equalizer, read_words, replacement
from pipelines.families import family_of
from pipelines.inversions import INVERSIONS
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.requests.limits import Limits
from pipelines.requests.text_to_image import resolve
from pipelines.workflows.edit.request import EditRequest, Picture, canvas_of
from pipelines.workflows.edit.runs import Editing, partial
from tests.pipelines.network_state import assert_unchanged, broken_at, state_of
from tests.pipelines.tiny_models import tiny_sd, tiny_sd3, tiny_sdxl

WORDS = {"replace": {}, "refine": {"blend": "fox, cat"}, "reweight": {"words": "cat=2"}}
BASE = Request(
    prompt="a red cat",
    negative_prompt="blurry",
    num_inference_steps=4,
    width=32,
    height=32,
    seed=3,
    guidance=Choice("cfg", {"guidance_scale": 4.0}),
)


@pytest.fixture(scope="module")
def family():
    return family_of(tiny_sd().components)


@pytest.fixture(scope="module")
def picture():
    return Picture(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))


@pytest.fixture(scope="module")
def mask():
    drawn = np.zeros((32, 32), bool)
    drawn[6:19, 9:21] = True
    return Picture(drawn)


def request_of(picture, edit, mask=None, source="a red fox", inversion="direct", **changes):
    edit = edit if isinstance(edit, Choice) else Choice(edit, WORDS.get(edit, {}))
    return EditRequest(BASE.replace(**changes), picture, mask, source, Choice.parse(inversion), edit)


def edited(family, request, cancelled=lambda: False):
    """The editing, its trajectory or None, and the steps of the way down."""
    canvas = canvas_of(request, (request.base.width, request.base.height))
    request = request.replace(base=request.base.replace(width=canvas.size[0], height=canvas.size[1]))
    editing = Editing(request, resolve(request.base, family), family, canvas, cancelled)
    trajectory = None
    if editing.edit.inverts:
        up = editing.inversion_run()
        trajectory = Trajectory(up.latents, tuple(denoise(up)))
    with editing.run(trajectory) as run:
        return editing, trajectory, list(denoise(run))


# Every edit, from the table.


@pytest.mark.parametrize("inversion", list(INVERSIONS))
@pytest.mark.parametrize("edit", list(EDITS))
def test_every_edit_with_every_inversion_leaves_the_network_unchanged(family, picture, mask, edit, inversion):
    if inversion != "direct" and not EDITS[edit].build().inverts:
        return
    before = state_of(family.network)
    editing, _, steps = edited(family, request_of(picture, edit, mask, inversion=inversion))
    assert steps[-1].latents.isfinite().all() and steps[-1].index + 1 == steps[-1].num_steps == len(editing.levels) - 1
    assert_unchanged(family.network, before)


@pytest.mark.parametrize("edit", list(EDITS))
def test_a_cancel_and_an_error_leave_the_network_unchanged(family, picture, mask, edit):
    before, asked = state_of(family.network), []
    stop_at = 6 if EDITS[edit].build().inverts else 1  # in the middle of the way down

    def cancelled():
        asked.append(1)
        return len(asked) > stop_at

    with pytest.raises(Cancelled):
        edited(family, request_of(picture, edit, mask), cancelled)
    assert_unchanged(family.network, before)
    # Inside of it, where an edit's attention is open.
    with broken_at(family.network.conv_out, stop_at + 1), pytest.raises(RuntimeError, match="broken"):
        edited(family, request_of(picture, edit, mask))
    assert_unchanged(family.network, before)


# Attention.


def test_open_attention_with_no_change_is_the_networks_own(family):
    class Watching:
        seen = 0

        def change(self, maps, cross):
            Watching.seen += 1
            torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]), rtol=0, atol=1e-5)
            return maps

    latents, times = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0, 500.0])
    prompt = family.encode_prompts("a red fox", "", 2, (32, 32))["positive"]
    with torch.no_grad():
        plain = family.predict_raw(latents, times, prompt)
        with opened_attention(family.network, Watching()):
            opened = family.predict_raw(latents, times, prompt)
    assert Watching.seen == len(attention_layers(family.network)) > 0
    torch.testing.assert_close(opened, plain, rtol=0, atol=2e-6)


@pytest.mark.parametrize("edit", ["replace", "refine"])
@pytest.mark.parametrize("inversion", list(INVERSIONS))
def test_equal_prompts_give_equal_rows(family, picture, edit, inversion):
    editing, _, steps = edited(family, request_of(picture, Choice(edit), source=BASE.prompt, inversion=inversion))
    for step in steps[: 1 if inversion == "direct" else None]:
        # A pinned source leaves the row that is not pinned behind, so only the first step's estimates are equal there.
        rows = editing.inversion.visible(step.denoised)
        torch.testing.assert_close(rows[SOURCE], rows[TARGET], rtol=0, atol=2e-6)


def test_shared_maps_are_the_equations():
    maps = torch.rand(4, 2, 9, 5, generator=torch.Generator().manual_seed(1)).softmax(-1)
    double = SharedMaps(lambda own, edit: 2 * own, cross_until=0.5, self_until=0.25, rows=4)
    changed = double.change(maps, cross=True)
    assert torch.equal(changed[:3], maps[:3]) and torch.equal(changed[3], 2 * maps[2])
    assert torch.equal(double.change(maps, cross=False)[3], maps[2])
    double.done = 0.25
    assert torch.equal(double.change(maps, cross=False), maps) and torch.equal(
        double.change(maps, cross=True)[3], 2 * maps[2]
    )
    double.done = 0.5
    assert torch.equal(double.change(maps, cross=True), maps)
    with pytest.raises(SettingsError, match="all 4 rows"):
        double.change(maps[:2], cross=True)


def test_until_zero_is_plain_re_prompting(family, picture):
    none = {"cross_until": 0.0, "self_until": 0.0}
    ours = edited(family, request_of(picture, Choice("replace", none)))[2][-1].latents
    plain = edited(family, request_of(picture, "reprompt"))[2][-1].latents
    torch.testing.assert_close(ours, plain, rtol=0, atol=5e-5 * plain.abs().max().item())
    shared = edited(family, request_of(picture, "replace"))[2][-1].latents
    assert (shared[TARGET] - plain[TARGET]).abs().max() > 1e-3


# Words.


def test_replacement_loses_no_attention(family):
    tokenizer = family.components["tokenizer"]
    for source, target in (("a red fox", "a blue cat"), ("a fox", "a xyz"), ("a xyz moon", "a fox moon")):
        one, other = read_words(tokenizer, source), read_words(tokenizer, target)
        matrix = replacement(one, other)
        torch.testing.assert_close(matrix.sum(1), torch.ones(one.length))
        for own, taking in zip(one.places, other.places, strict=True):
            torch.testing.assert_close(matrix[list(own)][:, list(taking)].sum(), torch.tensor(float(len(own))))


def test_refine_gathers_what_is_common(family):
    tokenizer = family.components["tokenizer"]
    source, target = read_words(tokenizer, "a fox"), read_words(tokenizer, "a red fox")
    places, known = align(source, target)
    assert places[:5].tolist() == [0, 1, 0, 2, 3] and known[:5].tolist() == [1, 1, 0, 1, 1]
    assert known[5:].all()


def test_equalizer_reads_factors(family):
    words = read_words(family.components["tokenizer"], "a (red:1.3) fox, a cat")
    assert words.words == ("a", "red", "fox,", "a", "cat")
    factors = equalizer(words, "red=2, fox=-0.5")
    assert factors[2] == 2 and factors[3] == -0.5 and factors[1] == 1
    for text, said in (
        ("dog=2", "no 'dog'"),
        ("red", "cannot be read"),
        ("red=x", "cannot be read"),
        ("red=nan", "cannot be read"),
    ):
        with pytest.raises(PromptError, match=said):
            equalizer(words, text)


# Masks.


def test_inpainting_keeps_the_latents_outside_bit_for_bit(family, picture, mask):
    editing, _, steps = edited(family, request_of(picture, "inpaint", mask))
    outside = ~editing.mask.expand_as(steps[-1].latents)
    assert torch.equal(steps[-1].latents[outside], editing.image_latents[outside])
    assert not torch.equal(steps[-1].latents, editing.image_latents)
    first = steps[0]
    expected = first.next_level.alpha * editing.image_latents + first.next_level.sigma * editing.noise
    assert torch.equal(first.latents[outside], expected[outside])


def test_inpainting_is_diffusers_inpainting():
    pipe = tiny_sd()
    components = dict(pipe.components)
    family, size = family_of(components), 32
    drawn = np.zeros((size, size), bool)
    drawn[8:20, 8:24] = True  # whole latent pixels, of four
    pixels = np.random.default_rng(1).integers(0, 256, (size, size, 3), np.uint8)
    request = request_of(
        Picture(pixels),
        Choice("inpaint", {"strength": 0.75}),
        Picture(drawn),
        sampler=Choice("ddim"),
        num_inference_steps=8,
        schedule=Choice("uniform", {"spacing": "leading", "final": "first"}),
        negative_prompt="",
    )
    editing, _, steps = edited(family, request)
    inpaint = StableDiffusionInpaintPipeline(
        **{**components, "scheduler": DDIMScheduler.from_config(pipe.scheduler.config)}, requires_safety_checker=False
    )
    inpaint.set_progress_bar_config(disable=True)
    theirs = inpaint(
        "a red cat",
        image=editing.image_latents,
        masked_image_latents=editing.image_latents,
        mask_image=Image.fromarray(drawn),
        strength=0.75,
        num_inference_steps=8,
        guidance_scale=4.0,
        width=size,
        height=size,
        output_type="latent",
        generator=[torch.Generator().manual_seed(request.base.seed)],
    ).images
    assert (steps[-1].latents - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_outpainting_grows_the_canvas_and_keeps_its_middle(family, picture):
    editing, _, steps = edited(family, request_of(picture, Choice("outpaint", {"left": 16, "right": 0, "bottom": 16})))
    assert editing.canvas.size == (48, 48) and steps[-1].latents.shape[-2:] == (12, 12)
    assert np.array_equal(editing.canvas.pixels[:32, 16:], picture.pixels)
    assert editing.canvas.mask.sum() == 48 * 48 - 32 * 32
    middle = steps[-1].latents[..., :8, 4:]
    assert torch.equal(middle, editing.image_latents[..., :8, 4:])


@pytest.mark.parametrize("edit", ["reprompt", "replace"])
def test_a_drawn_mask_keeps_an_inverted_edit_inside_it(family, picture, mask, edit):
    editing, _, steps = edited(family, request_of(picture, edit, mask))
    source, target = steps[-1].latents
    outside = ~editing.mask[0].expand_as(source)
    assert torch.equal(target[outside], source[outside]) and torch.equal(source, editing.image_latents[0])
    assert not torch.equal(target, source)


@pytest.mark.parametrize(("strength", "steps"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.7, 2), (1.0, 4)])
def test_strength_counts_steps_as_diffusers_does(family, picture, strength, steps):
    request = request_of(picture, Choice("image_to_image", {"strength": strength}))
    editing = Editing(request, resolve(request.base, family), family, canvas_of(request, (32, 32)))
    assert len(editing.levels) - 1 == steps
    assert len(partial(range(101), 0.58)) == 59


def test_sdxl_and_flow_models_edit_too(picture):
    for family, edit in (
        (family_of(tiny_sdxl().components), "replace"),
        (family_of(tiny_sd3().components), "reprompt"),
    ):
        changes = {"sampler": Choice("flow_euler"), "schedule": Choice("shift")} if family.traits.flow else {}
        before = state_of(family.network)
        editing, _, steps = edited(family, request_of(picture, edit, **changes))
        assert torch.equal(steps[-1].latents[SOURCE], editing.image_latents[0])
        assert_unchanged(family.network, before)


# What is refused.


TRAITS = Traits("sd", "epsilon", "unet")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"edit": Choice("inpaint")}, "needs a mask"),
        ({"edit": Choice("replace"), "source_prompt": " "}, "Write what the source"),
        ({"edit": Choice("outpaint", {"right": 0})}, "no margin"),
        ({"edit": Choice("nothing")}, "Unknown edit"),
        ({"edit": Choice("reprompt"), "inversion": Choice("null")}, "Unknown inversion"),
        ({"inversion": Choice("edict", {"p": 0.5})}, "from 0.9 to 1"),
        ({"edit": Choice("image_to_image", {"strength": 1.5})}, "from 0 to 1"),
        ({"mask": Picture(np.zeros((32, 32), bool))}, "mask is empty"),
        ({"mask": Picture(np.ones((32, 32), bool))}, "covers the whole"),
        ({"mask": Picture(np.ones((8, 8), bool))}, "of the picture's size"),
        ({"base": BASE.replace(batch_size=2)}, "choose 1"),
        ({"source_prompt": "x" * 5000}, "5000 characters"),
    ],
)
def test_bad_requests_get_a_sentence(picture, change, said):
    with pytest.raises(SettingsError, match=said):
        dataclasses.replace(request_of(picture, "image_to_image"), **change).check(Limits(), TRAITS)


def test_prompts_that_cannot_be_aligned_are_said(family, picture):
    for edit, source, said in (
        ("replace", "a fox", "as many words"),
        ("refine", "blue sky", "no word in common"),
        ("replace", "a red fox " * 9, "(?i)shorten it"),
    ):
        with pytest.raises(PromptError, match=said):
            edited(family, request_of(picture, Choice(edit), source=source))
    with pytest.raises(PromptError, match="no words to weigh"):
        edited(family, request_of(picture, Choice("reweight")))
    with pytest.raises(PromptError, match="Neither prompt"):
        edited(family, request_of(picture, Choice("refine", {"blend": "moon"})))


def test_a_method_that_does_not_fit_is_refused(picture):
    flow = Traits("sd3", "flow", "transformer")
    with pytest.raises(MethodFitError, match="attention maps of a UNet"):
        request_of(picture, "replace").check(Limits(), flow)
    with pytest.raises(MethodFitError, match="EDICT does not fit"):
        request_of(picture, "reprompt", inversion="edict").check(Limits(), flow)


def test_a_request_is_read_from_plain_values(picture):
    def read(plain):
        return Request.parse(plain)

    values = {
        "base": {"prompt": "a fox"},
        "picture": picture,
        "source_prompt": "a cat",
        "inversion": {"key": "edict", "p": 0.95},
        "edit": "refine",
        "fit": "resize",
    }
    request = EditRequest.parse(values, read, lambda one: one, lambda one: one)
    plain = request.to_json()
    assert plain["inversion"] == {"key": "edict", "p": 0.95} and plain["picture"] == picture.digest
    assert EditRequest.parse({**plain, "picture": picture}, read, lambda one: one, lambda one: one) == request
    for wrong, kind, said in (
        ({"nonsense": 1}, SettingsError, "Unknown setting of an edit"),
        ({"picture": None}, PictureError, "no picture"),
        ({"fit": "melt"}, SettingsError, "melt"),
        ({"source_prompt": 3}, SettingsError, "must be text"),
        ({"base": 3}, SettingsError, "object"),
    ):
        with pytest.raises(kind, match=said):
            EditRequest.parse({**values, **wrong}, read, lambda one: one, lambda one: one)


@pytest.mark.parametrize(
    ("fit", "said", "left"), [("crop", "cut to its middle and scaled", 100), ("resize", "squeezed", 0)]
)
def test_the_canvas_says_what_it_did(fit, said, left):
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, :, 0] = np.arange(300) // 2
    canvas = canvas_of(dataclasses.replace(request_of(Picture(wide), "image_to_image"), fit=fit), (32, 32))
    assert said in canvas.notes[0] and "300 × 100" in canvas.notes[0]
    assert canvas.pixels.shape == (32, 32, 3) and abs(int(canvas.pixels[5, 0, 0]) - left // 2) < 4


def test_a_stroke_that_vanishes_at_the_models_size_is_said(picture):
    thin = np.zeros((320, 320), bool)
    thin[0, 0] = True
    large = Picture(np.zeros((320, 320, 3), np.uint8))
    with pytest.raises(SettingsError, match="nothing lies under the mask"):
        canvas_of(request_of(large, "inpaint", Picture(thin)), (32, 32))

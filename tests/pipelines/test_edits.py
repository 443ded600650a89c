"""Edits: exact outside their masks, equal prompts give equal rows, and the network comes back as it was."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline
from PIL import Image

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import PromptError, SettingsError
from pipelines.core.types import Choice
from pipelines.edits import EDITS
from pipelines.edits.attention import attention_layers, opened_attention, order_self_attention
from pipelines.edits.map_controller import MapController
from pipelines.edits.masactrl import MutualAttention
from pipelines.edits.prompt_to_prompt import SharedMaps
from pipelines.edits.words import align, equalizer, read_words, replacement
from pipelines.families import family_of
from pipelines.inversions import INVERSIONS
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.requests.passes import partial
from pipelines.requests.text_to_image import resolve
from pipelines.workflows.edit.canvas import canvas_of
from pipelines.workflows.edit.request import Picture
from pipelines.workflows.edit.runs import Editing
from tests.pipelines.edit_requests import BASE, edited, request_of
from tests.pipelines.network_state import assert_unchanged, broken_at, state_of
from tests.pipelines.tiny_models import tiny_sd, tiny_sd3, tiny_sdxl


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


@functools.cache
def flow_family():
    return family_of(tiny_sd3().components)


@functools.cache
def v_family():
    return family_of(tiny_sd(prediction_type="v_prediction").components)


@pytest.mark.parametrize(
    ("edit", "inversion"), [*((edit, "direct") for edit in EDITS), *(("reprompt", key) for key in INVERSIONS)]
)
def test_edits_and_inversions_run_where_the_network_predicts_v(picture, mask, edit, inversion):
    """The noise that a method reads of a prediction is then computed from it, with the gradient that it wants."""
    family = v_family()
    if EDITS[edit].fit(family.traits) is None and INVERSIONS[inversion].fit(family.traits) is None:
        assert edited(family, request_of(picture, edit, mask, inversion=inversion))[2][-1].latents.isfinite().all()


def fitting(family, edit):
    """The family, or a flow model for what fits only such."""
    return family if EDITS[edit].fit(family.traits) is None else flow_family()


@pytest.mark.parametrize("inversion", list(INVERSIONS))
@pytest.mark.parametrize("edit", list(EDITS))
def test_every_edit_with_every_inversion_leaves_the_network_unchanged(family, picture, mask, edit, inversion):
    built = EDITS[edit].build()
    if inversion not in (built.inversions or INVERSIONS) or (inversion != "direct" and not built.inverts):
        return
    family = fitting(family, edit)
    before = state_of(family.network)
    editing, _, steps = edited(family, request_of(picture, edit, mask, inversion=inversion))
    assert steps[-1].latents.isfinite().all() and steps[-1].index + 1 == steps[-1].num_steps == len(editing.levels) - 1
    assert_unchanged(family.network, before)


@pytest.mark.parametrize("edit", list(EDITS))
def test_a_cancel_and_an_error_leave_the_network_unchanged(family, picture, mask, edit):
    family = fitting(family, edit)
    before, asked = state_of(family.network), []
    stop_at = 6 if EDITS[edit].build().inverts else 1  # in the middle of the way down

    def cancelled():
        asked.append(1)
        return len(asked) > stop_at

    with pytest.raises(Cancelled):
        edited(family, request_of(picture, edit, mask), cancelled)
    assert_unchanged(family.network, before)
    # Inside of it, where an edit's attention is open.
    last = family.network.proj_out if family.traits.flow else family.network.conv_out
    with broken_at(last, stop_at + 1), pytest.raises(RuntimeError, match="broken"):
        edited(family, request_of(picture, edit, mask))
    assert_unchanged(family.network, before)


def test_open_attention_with_no_change_is_the_networks_own(family):
    class Watching(MapController):
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


@pytest.mark.parametrize("edit", ["replace", "refine", "plug_and_play"])
@pytest.mark.parametrize("inversion", [key for key in INVERSIONS if key != "rf"])
def test_equal_prompts_give_equal_rows(family, picture, edit, inversion, monkeypatch):
    # Else the estimate of a held source is that without its negative prompt.
    monkeypatch.setattr(EDITS[edit].make, "looks_at_prompt_alone", False)
    editing, _, steps = edited(family, request_of(picture, Choice(edit), source=BASE.prompt, inversion=inversion))
    for step in steps[: 1 if inversion in ("direct", "ddpm", "cycle", "ledits") else None]:
        # A pinned source leaves the row that is not pinned behind, so only the first step's estimates are equal there.
        rows = editing.inversion.visible(step.denoised)
        torch.testing.assert_close(rows[SOURCE], rows[TARGET], rtol=0, atol=2e-6)


def test_shared_maps_are_the_equations():
    maps = torch.rand(4, 2, 9, 5, generator=torch.Generator().manual_seed(1)).softmax(-1)
    double = SharedMaps(lambda own, edit: 2 * own, cross_until=0.5, self_until=0.25, rows=4)
    changed = double.change(maps, cross=True)
    assert torch.equal(changed[:3], maps[:3]) and torch.equal(changed[3], 2 * maps[2])
    assert torch.equal(double.change(maps, cross=False)[3], maps[2])
    double.share_done = 0.25
    assert torch.equal(double.change(maps, cross=False), maps) and torch.equal(
        double.change(maps, cross=True)[3], 2 * maps[2]
    )
    double.share_done = 0.5
    assert torch.equal(double.change(maps, cross=True), maps)
    with pytest.raises(SettingsError, match="all 4 rows"):
        double.change(maps[:2], cross=True)


@pytest.mark.parametrize(
    ("edit", "none"),
    [
        ("replace", {"cross_until": 0.0, "self_until": 0.0}),
        ("plug_and_play", {"features_until": 0.0, "attention_until": 0.0}),
    ],
)
def test_until_zero_is_plain_re_prompting(family, picture, edit, none):
    ours = edited(family, request_of(picture, Choice(edit, none)))[2][-1].latents
    plain = edited(family, request_of(picture, "reprompt"))[2][-1].latents
    torch.testing.assert_close(ours, plain, rtol=0, atol=5e-5 * plain.abs().max().item())
    shared = edited(family, request_of(picture, edit))[2][-1].latents
    assert (shared[TARGET] - plain[TARGET]).abs().max() > 1e-3
    assert torch.equal(shared[SOURCE], plain[SOURCE])


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


def test_inpainting_keeps_the_latents_outside_bit_for_bit(family, picture, mask):
    editing, _, steps = edited(family, request_of(picture, "inpaint", mask))
    outside = ~editing.mask.expand_as(steps[-1].latents)
    assert torch.equal(steps[-1].latents[outside], editing.image_latents[outside])
    assert not torch.equal(steps[-1].latents, editing.image_latents)
    first = steps[0]
    expected = first.next_level.alpha * editing.image_latents + first.next_level.sigma * editing.noise
    assert torch.equal(first.latents[outside], expected[outside])


def test_inpainting_with_a_cache_keeps_the_latents_outside_bit_for_bit(family, picture, mask):
    cache, neutral = Choice("deepcache", {"interval": 2}), Choice("deepcache", {"interval": 1})
    editing, _, steps = edited(family, request_of(picture, "inpaint", mask, cache=cache))
    outside = ~editing.mask.expand_as(editing.image_latents)
    assert torch.equal(steps[-1].latents[outside], editing.image_latents[outside])
    assert any(step.skipped for step in steps)
    plain, same = (edited(family, request_of(picture, "inpaint", mask, **one))[2] for one in ({}, {"cache": neutral}))
    assert torch.equal(plain[-1].latents, same[-1].latents)


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


def test_mutual_attention_takes_keys_and_values_of_the_source():
    states = torch.rand(4, 9, 6, generator=torch.Generator().manual_seed(1))
    controller = MutualAttention(["up_blocks.0.attn1"], start=0.5, rows=4)
    assert torch.equal(controller.change_source("up_blocks.0.attn1", states), states)
    controller.share_done = 0.5
    changed = controller.change_source("up_blocks.0.attn1", states)
    assert torch.equal(changed, states[[0, 0, 2, 2]])
    assert torch.equal(controller.change_source("down_blocks.0.attn1", states), states)
    with pytest.raises(SettingsError, match="all 4 rows"):
        controller.change_source("up_blocks.0.attn1", states[:2])


def test_self_attention_is_ordered_as_it_is_evaluated(family):
    seen = []

    class Listing(MapController):
        def change_source(self, layer, hidden_states):
            seen.append(layer)
            return hidden_states

    prompt = family.encode_prompts("a red fox", "", 1, (32, 32))["positive"]
    with torch.no_grad(), opened_attention(family.network, Listing()):
        family.predict_raw(torch.zeros(1, 4, 8, 8), torch.tensor([500.0]), prompt)
    assert seen == order_self_attention(family.network) and len(seen) > 2


def test_masactrl_without_layers_is_plain_re_prompting_and_with_them_another(family, picture):
    none = edited(family, request_of(picture, Choice("masactrl", {"layers": 0.0})))[2][-1].latents
    plain = edited(family, request_of(picture, "reprompt"))[2][-1].latents
    torch.testing.assert_close(none, plain, rtol=0, atol=5e-5 * plain.abs().max().item())
    shared = edited(family, request_of(picture, "masactrl"))[2][-1].latents
    assert (shared[TARGET] - plain[TARGET]).abs().max() > 1e-3
    torch.testing.assert_close(shared[SOURCE], plain[SOURCE], rtol=0, atol=0)


def test_the_source_row_decides_what_the_edit_looks_like(family, picture):
    """With every layer and step, equal queries would give equal answers: another prompt changes less than without."""
    every = Choice("masactrl", {"layers": 1.0, "start": 0.0})
    plain = edited(family, request_of(picture, "reprompt"))[2][-1].latents
    shared = edited(family, request_of(picture, every))[2][-1].latents
    assert (shared[TARGET] - shared[SOURCE]).norm() < (plain[TARGET] - plain[SOURCE]).norm()


@pytest.mark.parametrize("edit", ["reprompt", "infedit", "image_to_image"])
def test_a_clip_skip_counts_in_every_edit(family, picture, edit):
    """Of an inverted one it is another trajectory, too."""
    skipping = {"made_like": Choice("here", {"clip_skip": 2})}
    plain, skipped = (edited(family, request_of(picture, edit, **change)) for change in ({}, skipping))
    assert (plain[2][-1].latents - skipped[2][-1].latents).abs().max() > 1e-4
    assert plain[0].trajectory_key != skipped[0].trajectory_key

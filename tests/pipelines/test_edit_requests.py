"""Edit requests: what is refused, and the canvas."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipelines.core.errors import MethodFitError, PictureError, PromptError, SettingsError
from pipelines.core.types import Choice, Request, Traits
from pipelines.families import family_of
from pipelines.families.alike import encode_alike
from pipelines.requests.limits import Limits
from pipelines.workflows.edit.canvas import canvas_of
from pipelines.workflows.edit.request import EditRequest, Picture
from tests.pipelines.edit_requests import BASE, REFERENCE, edited, request_of
from tests.pipelines.tiny_models import tiny_sd


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
        ({"edit": Choice("style_tracking")}, "reference picture. Give one"),
        ({"reference": REFERENCE}, "takes no reference picture. Leave it out, or choose STRDP"),
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
        request_of(picture, Choice("reweight")).check(Limits(), TRAITS)
    with pytest.raises(PromptError, match="Neither prompt"):
        edited(family, request_of(picture, Choice("refine", {"blend": "moon"})))


@pytest.mark.parametrize(
    "edit", [Choice("reprompt"), Choice("masactrl"), Choice("ledits", {"concepts": "-fox"})], ids=str
)
def test_prompts_of_different_lengths_stand_side_by_side(family, picture, edit):
    """The shorter ones are filled with empty chunks; they were refused once the job had begun."""
    inversion = "ledits" if edit.key == "ledits" else "direct"
    editing, _, steps = edited(family, request_of(picture, edit, source="a red fox " * 9, inversion=inversion))
    rows = steps[-1].latents
    assert rows.isfinite().all() and not torch.allclose(rows[0], rows[1])
    if inversion == "direct":
        assert torch.allclose(rows[:1], editing.image_latents, atol=1e-4)


def test_prompts_of_equal_lengths_are_encoded_as_each_alone(family):
    pairs, size = [("a red fox", "blurry"), ("a red cat", "")], (32, 32)
    for branches, (prompt, negative) in zip(encode_alike(family, pairs, size), pairs, strict=True):
        for name, one in family.encode_prompts(prompt, negative, 1, size).items():
            assert all(torch.equal(tensor, branches[name].tensors[key]) for key, tensor in one.tensors.items())
    long = encode_alike(family, [("a red fox " * 9, ""), ("a red cat", "blurry")], size)
    assert len({one.signature for branches in long for one in branches.values()}) == 1


@pytest.mark.parametrize("key", ["interval", "apg", "adaptive"])
def test_an_inversion_goes_back_by_classifier_free_guidance_only(picture, key):
    base = BASE.replace(guidance=Choice(key))
    EditRequest(base, picture, edit=Choice("image_to_image")).check(Limits(), TRAITS)
    with pytest.raises(MethodFitError, match="choose Classifier-free guidance"):
        EditRequest(base, picture, edit=Choice("reprompt")).check(Limits(), TRAITS)


def test_an_inversion_refuses_a_cache_and_other_edits_take_one(picture):
    base = BASE.replace(cache=Choice("deepcache"))
    EditRequest(base, picture, edit=Choice("image_to_image")).check(Limits(), TRAITS)
    with pytest.raises(MethodFitError, match="DeepCache leaves out"):
        EditRequest(base, picture, edit=Choice("reprompt")).check(Limits(), TRAITS)


def test_a_method_that_does_not_fit_is_refused(picture):
    flow = Traits("sd3", "flow", "transformer")
    with pytest.raises(MethodFitError, match="features of a UNet"):
        request_of(picture, "plug_and_play").check(Limits(), flow)
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
        "reference": picture,
    }
    request = EditRequest.parse(values, read, lambda one: one, lambda one: one)
    plain = request.to_json()
    assert plain["inversion"] == {"key": "edict", "p": 0.95} and plain["picture"] == picture.digest
    assert plain["reference"] == picture.digest
    pictures = {"picture": picture, "reference": picture}
    assert EditRequest.parse({**plain, **pictures}, read, lambda one: one, lambda one: one) == request
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
